"""From what was asked for to a measurement."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nnssl.benchmark.measure import build, compare, take_turns
from nnssl.benchmark.report import as_json
from nnssl.trainers.elsewhere import folders_below
from nnssl.trainers.launch import Request, limit_threads, pick_device, prepare


@dataclass(frozen=True)
class Timing:
    """How much is measured.

    Attributes:
        rounds: turns of each setting.
        steps: timed steps per turn.
        read: whether every step reads its batch.
    """

    rounds: int
    steps: int
    read: bool


def benchmark(requests: Sequence[Request], against: Sequence[str], timing: Timing) -> dict[str, Any]:
    """Measure requests side by side; each also with other settings, if there are any.

    Args:
        requests: one per method, alike otherwise.
        against: `key=value` texts that the second setting of each request has in addition; they win over its own.
        timing: how much is measured.

    Returns:
        See nnssl.benchmark.report.as_json.

    Raises:
        NnsslError: what a run would refuse, and memory that does not suffice.
    """
    device = pick_device(requests[0].device)
    limit_threads(device)
    keys = {_key(text) for text in against}
    common = [text for text in requests[0].sets if _key(text) not in keys]
    first = [text for text in requests[0].sets if _key(text) in keys]
    own = [(first, " ".join(first) or "default"), (against, " ".join(against))] if against else [((), "")]
    with tempfile.TemporaryDirectory() as elsewhere, folders_below(elsewhere, ["nnUNet_results"]):
        asked = [[(replace(r, sets=(*common, *sets)), label) for sets, label in own] for r in requests]
        for request, _ in itertools.chain.from_iterable(asked):
            prepare(request)  # a wrong setting is said before the first network is built
        built = [[build(request, device, label) for request, label in pair] for pair in asked]
        every = [measured for pair in built for measured in pair]
        take_turns(every, timing.rounds, timing.steps, timing.read)
        comparisons = [compare(*pair) for pair in built if len(pair) == 2]
        return as_json(every, comparisons, common, timing.rounds, timing.steps, timing.read)


def _key(text: str) -> str:
    return text.partition("=")[0].strip()
