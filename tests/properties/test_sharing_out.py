"""Work that is shared out: over processes, jobs, and passes over the cases."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnssl.planners.shards import Shard
from nnssl.trainers.building import refuse_empty_shares

from nnssl.data.loader import rank_share
from nnssl.data.passes import CasePasses
from nnssl.errors import NnsslError

COUNTS = st.integers(1, 300)


@given(batch=st.integers(1, 5000), world=COUNTS)
def test_a_batch_over_any_number_of_processes(batch: int, world: int) -> None:
    """The parts are the batch, in order; they differ by one crop at most, and an empty one is refused."""
    if batch < world:
        with pytest.raises(NnsslError, match="cannot be split over"):
            refuse_empty_shares(batch, world)
        return
    refuse_empty_shares(batch, world)
    shares = [rank_share(batch, rank, world) for rank in range(world)]
    assert [crop for share in shares for crop in share] == list(range(batch))
    sizes = {len(share) for share in shares}
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


@given(cases=st.integers(0, 400), count=COUNTS)
def test_shards_are_a_partition(cases: int, count: int) -> None:
    items = list(range(cases))
    parts = [Shard.parse(f"{i}/{count}").mine(items) for i in range(count)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(text=st.one_of(st.text(max_size=12), st.from_regex(r"[-+ 0-9\u0660-\u0669\u00b2]{0,4}/[-+ 0-9\u00b2]{0,4}")))
def test_any_text_as_a_shard(text: str) -> None:
    try:
        shard = Shard.parse(text)
    except NnsslError:
        return
    assert 0 <= shard.index < shard.count
    assert Shard.parse(str(shard)) == shard


@given(count=st.integers(1, 60), seed=st.integers(0, 2**63), turns=st.integers(1, 4))
def test_a_pass_sees_every_case_once(count: int, seed: int, turns: int) -> None:
    passes = CasePasses(count, (), (seed, 0))
    for turn in range(turns):
        assert sorted(passes(turn * count + n) for n in range(count)) == list(range(count))


@given(
    weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40),
    seed=st.integers(0, 100),
    turn=st.integers(0, 10**6),
)
def test_a_weighted_pass_is_as_even_as_whole_numbers_allow(weights: list[float], seed: int, turn: int) -> None:
    """Each case is drawn floor or ceil of its expected count, and draws follow from their number alone."""
    count = len(weights)
    numbers = range(turn * count, (turn + 1) * count)
    passes = CasePasses(count, weights, (seed, 1))
    drawn = [passes(n) for n in numbers]
    assert drawn[::-1] == [CasePasses(count, weights, (seed, 1))(n) for n in reversed(numbers)]
    for case, weight in enumerate(weights):
        expected = count * weight / math.fsum(weights)
        assert math.floor(expected - 1e-6) <= drawn.count(case) <= math.ceil(expected + 1e-6)
