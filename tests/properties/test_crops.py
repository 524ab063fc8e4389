"""Where crops lie, and what is read there, for any case and any patch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nnssl.data.pool import Pool, PoolCase
from nnssl.data.sampling import CropPlace, CropSampler
from nnssl.data.store import CaseReader

EDGES = st.tuples(*[st.integers(1, 40)] * 3)
Shape = tuple[int, int, int]


def sampler_of(shapes: list[Shape], size: Shape, seed: int) -> CropSampler:
    cases = tuple(PoolCase(f"c{i}", "f", shape, False, subject="all") for i, shape in enumerate(shapes))
    return CropSampler(Pool(Path("nowhere"), cases), size, seed, 0, 0.5)


def lies_well(place: CropPlace, shape: Shape, size: Shape) -> None:
    """Inside where the image is large enough, else with the image in its middle."""
    for low, length, edge in zip(place.lower, shape, size):
        if length >= edge:
            assert 0 <= low <= length - edge
        else:
            before, behind = -low, low + edge - length
            assert before >= 0 and behind >= 0 and abs(before - behind) <= 1


@given(shapes=st.lists(EDGES, min_size=1, max_size=4), size=EDGES, seed=st.integers(0, 2**40), n=st.integers(0, 10**9))
def test_every_crop_and_its_partner_lie_well(shapes: list[Shape], size: Shape, seed: int, n: int) -> None:
    sampler = sampler_of(shapes, size, seed)
    place = sampler(n)
    assert place == sampler_of(shapes, size, seed)(n)
    lies_well(place, shapes[place.case], size)
    partner = sampler.partner(n, place)
    assert len(shapes) == 1 or partner.case != place.case
    lies_well(partner, shapes[partner.case], size)
    if len(shapes) == 1:
        assert partner == place


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    lower=st.tuples(*[st.integers(-12, 12)] * 3),
    size=st.tuples(*[st.integers(1, 12)] * 3),
    channels=st.integers(1, 2),
)
def test_a_crop_is_the_padded_image(shape: Shape, lower: Shape, size: Shape, channels: int) -> None:
    """Also one that lies beyond the image altogether; what is said to be image is image."""
    image = np.arange(1, 1 + channels * np.prod(shape), dtype=np.float32).reshape(channels, *shape)
    room = 30
    padded = np.pad(image, ((0, 0), *[(room, room)] * 3))
    there = tuple(slice(lo + room, lo + room + s) for lo, s in zip(lower, size))
    crop, inside = CaseReader._crop(image, lower, size)
    assert np.array_equal(crop, padded[(slice(None), *there)])
    marked = np.zeros(size, bool)
    marked[tuple(slice(*edges) for edges in inside)] = True
    assert np.array_equal(marked, (padded != 0)[0][there])
