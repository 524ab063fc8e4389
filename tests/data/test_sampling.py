from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnssl.data.pool import Pool, PoolCase
from nnssl.data.sampling import TRAINING, VALIDATION, CropSampler
from nnssl.data.thinning import KeptSlices

SIZE = (8, 10, 6)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Three cases: larger than the crop, smaller on one axis, smaller on all; the first has body positions."""
    shapes = [(20, 24, 18), (5, 30, 30), (4, 9, 5)]
    cases = tuple(PoolCase(f"c{i}", "data", s, False, body=50 if i == 0 else 0) for i, s in enumerate(shapes))
    (tmp_path / "data").mkdir()
    body = np.random.default_rng(0).integers((12, 12, 12), (16, 16, 16), (50, 3)).astype(np.int32)
    np.save(tmp_path / "data" / "c0_body.npy", body)
    return Pool(tmp_path, cases)


def test_crop_n_is_a_pure_function_of_seed_and_n(pool: Pool) -> None:
    first = [CropSampler(pool, SIZE, 3, TRAINING, 0.5)(n) for n in range(40)]
    sampler = CropSampler(pool, SIZE, 3, TRAINING, 0.5)
    np.random.seed(1)  # noqa: NPY002  the global generator must not matter
    backwards = [sampler(n) for n in reversed(range(40))][::-1]
    assert first == backwards
    assert first != [CropSampler(pool, SIZE, 4, TRAINING, 0.5)(n) for n in range(40)]


def test_training_and_validation_share_no_crops(pool: Pool) -> None:
    streams = [[CropSampler(pool, SIZE, 0, s, 0.0)(n) for n in range(60)] for s in (TRAINING, VALIDATION)]
    roomy = [{p.lower for p in s if p.case == 0} for s in streams]
    assert len(roomy[0] & roomy[1]) <= 2
    assert streams[0] != streams[1]


def test_every_pass_sees_every_case_once(pool: Pool) -> None:
    sampler = CropSampler(pool, SIZE, 0, TRAINING, 0.5)
    orders = [tuple(sampler(n).case for n in range(3 * k, 3 * k + 3)) for k in range(20)]
    assert all(sorted(o) == [0, 1, 2] for o in orders)
    assert len(set(orders)) > 1, "passes must be shuffled differently"


def test_crops_stay_inside_or_are_padded_on_both_sides(pool: Pool) -> None:
    sampler = CropSampler(pool, SIZE, 0, TRAINING, 0.5)
    lowest = {}
    for n in range(600):
        place = sampler(n)
        for axis, (low, size, length) in enumerate(zip(place.lower, SIZE, pool.cases[place.case].shape)):
            if length >= size:
                assert 0 <= low <= length - size
                lowest.setdefault((place.case, axis), set()).add(low)
            else:
                assert low == -((size - length) // 2)
    assert lowest[(0, 0)] == set(range(20 - 8 + 1)), "every position must be reachable"


def test_body_share_centres_on_the_body(pool: Pool) -> None:
    places = [p for n in range(900) if (p := CropSampler(pool, SIZE, 0, TRAINING, 1.0)(n)).case == 0]
    for place in places:
        centre = [low + s // 2 for low, s in zip(place.lower, SIZE)]
        assert all(12 <= c <= 15 for c in centre)
    anywhere = {p.lower for n in range(900) if (p := CropSampler(pool, SIZE, 0, TRAINING, 0.0)(n)).case == 0}
    assert len(anywhere) > 100


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_share_of_body_centred_crops_is_what_was_asked_for(tmp_path: Path, share: float) -> None:
    """With one body position, a crop is centred there or (but for a chance of 1 in 70,000) it is not body-centred."""
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "c_body.npy", np.array([[20, 25, 30]], np.int32))
    pool = Pool(tmp_path, (PoolCase("c", "data", (48, 48, 48), False, body=1),))
    sampler = CropSampler(pool, (8, 8, 8), 0, TRAINING, share)
    n = 4000
    centred = sum(sampler(i).lower == (16, 21, 26) for i in range(n)) / n
    assert abs(centred - share) <= 4 * (share * (1 - share) / n) ** 0.5


def test_weights_change_which_case_and_not_where(pool: Pool) -> None:
    """Places follow from the crop's number: two samplers that draw the same case as number n put the crop alike."""
    weighted = CropSampler(replace(pool, weights=(1.0, 2.0, 0.5)), SIZE, 0, TRAINING, 0.5)
    plain = CropSampler(pool, SIZE, 0, TRAINING, 0.5)
    drawn = [(weighted(n), plain(n)) for n in range(700)]
    share = np.bincount([w.case for w, _ in drawn], minlength=3) / 700
    np.testing.assert_allclose(share, np.array([1, 2, 0.5]) / 3.5, atol=0.01)
    same = [(w, p) for w, p in drawn if w.case == p.case]
    assert len(same) > 100
    assert all(w == p for w, p in same)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_thinned_pool_gives_kept_slices_only(pool: Pool, share: float) -> None:
    kept = KeptSlices.of_cases([[2, 13, 14], [0, 4], [3]])
    sampler = CropSampler(replace(pool, kept=kept), (1, 10, 6), 0, TRAINING, share)
    seen: dict[int, list[int]] = {}
    for n in range(900):
        seen.setdefault(sampler(n).case, []).append(sampler(n).lower[0])
    assert set(seen[1]) == {0, 4} and set(seen[2]) == {3}
    counts = np.bincount(seen[0], minlength=20)
    if share == 0:
        assert set(np.flatnonzero(counts)) == {2, 13, 14}
        assert counts[[2, 13, 14]].min() > 70, "each as likely as the others"
    else:
        assert set(np.flatnonzero(counts)) == {13, 14}, "the body lies in slices 12 to 15"
    elsewhere = replace(pool, kept=KeptSlices.of_cases([[2, 3], [0], [3]]))  # none of them shows the body
    assert {CropSampler(elsewhere, (1, 10, 6), 0, TRAINING, share)(n).lower[0] for n in range(90)} == {0, 2, 3}
    with pytest.raises(ValueError, match="one slice"):
        CropSampler(replace(pool, kept=kept), (2, 10, 6), 0, TRAINING, share)
