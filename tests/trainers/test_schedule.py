from __future__ import annotations

from itertools import pairwise

import pytest
from nnssl.trainers import schedule


def test_warmup_ramps_and_decays() -> None:
    factors = [schedule.warmup_then("cosine", s, 100, 0.1) for s in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == pytest.approx(1.0)
    assert max(factors) == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(factors[9:]))
    assert factors[-1] < 0.01


def test_poly_is_nnunets() -> None:
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
    from torch import nn, optim

    optimizer = optim.SGD(nn.Linear(1, 1).parameters(), 0.01)
    theirs = PolyLRScheduler(optimizer, 0.01, 40)
    for epoch in range(40):
        theirs.step(epoch)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * schedule.from_scratch(epoch, 40)[0])


def test_finetuning_warmup_of_1000_epochs() -> None:
    assert schedule.finetune_warmup(25, 1000) == (0.5, True)
    assert schedule.finetune_warmup(50, 1000) == (1.0, True)
    assert schedule.finetune_warmup(525, 1000)[0] == pytest.approx(0.5**0.9)


@pytest.mark.parametrize(
    ("epochs", "ends"), [(1000, (25, 50, 100)), (150, (7.5, 15, 30)), (300, (7.5, 15, 30)), (20, (1, 2, 4))]
)
def test_sawtooth_stages(epochs: int, ends: tuple[float, float, float]) -> None:
    ramp, tooth, whole = ends
    tiny = 1e-9
    assert schedule.finetune_sawtooth(ramp - tiny, epochs) == (pytest.approx(1), False)
    assert schedule.finetune_sawtooth(tooth - tiny, epochs) == (pytest.approx(0, abs=1e-6), False)
    assert schedule.finetune_sawtooth(tooth, epochs) == (0, True)
    assert schedule.finetune_sawtooth(whole, epochs) == (pytest.approx(1), True)
    assert schedule.finetune_sawtooth(epochs - tiny, epochs)[0] == pytest.approx(0, abs=1e-6)


def test_the_frozen_encoder_never_learns() -> None:
    assert not any(schedule.finetune_frozen(e, 100)[1] for e in range(100))
