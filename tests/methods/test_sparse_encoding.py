"""A method with a sparse encoder is the same whatever its executor, but for rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nnssl.methods.spark import SparK
from tests.methods.cases import SHAPES, Shape, liven, make_crops, make_method, seeded


def answer(executor: str, shape: Shape, **options: Any) -> list[torch.Tensor]:
    """Loss, what it is made of, the network's answer, and every gradient, in float64."""
    method: Any = make_method("spark", shape, **options)
    liven(method)
    views = method.views(make_crops(method, batch=3), seeded())
    method.double().use_executor(executor)
    views["image"] = views["image"].double()
    losses = method(views)
    losses.total.backward()
    with torch.no_grad():
        out = method.reconstruct(views["image"], views["visible"])
    return [losses.total, *losses.terms.values(), out, *(p.grad for p in method.parameters())]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize("decoder_type", ["unet", "light"])
@pytest.mark.parametrize("mask_ratio", [0.3, 0.75])
def test_loss_and_every_gradient_are_those_of_the_reference(shape: Shape, decoder_type: str, mask_ratio: float) -> None:
    both = [answer(e, shape, decoder_type=decoder_type, mask_ratio=mask_ratio) for e in ("dense", "tiles")]
    assert len(both[0]) == len(both[1])
    for dense, tiles in zip(*both):
        torch.testing.assert_close(tiles, dense, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_with_a_decoder_that_ends_early(shape: Shape) -> None:
    options = {"decoder_type": "light", "light_stop": 1, "mask_ratio": 0.75}
    for dense, tiles in zip(*(answer(e, shape, **options) for e in ("dense", "tiles"))):
        torch.testing.assert_close(tiles, dense, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("block", [[8, 8], [4, 8], [24, 4]])
def test_with_larger_blocks(block: list[int]) -> None:
    for dense, tiles in zip(*(answer(e, SHAPES["2d"], block=block) for e in ("dense", "tiles"))):
        torch.testing.assert_close(tiles, dense, rtol=1e-7, atol=1e-10)


def test_twenty_steps_of_training_stay_together() -> None:
    """float32: the two runs may part by rounding, not by more."""
    curves = []
    for executor in ("dense", "tiles"):
        method: Any = make_method("spark", SHAPES["3d"])
        method.use_executor(executor)
        optimizer = torch.optim.AdamW(method.parameters(), 1e-3)
        curve = []
        for step in range(20):
            loss = method(method.views(make_crops(method, batch=2, seed=step % 3), seeded(step))).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        curves.append(curve)
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert curves[0][-1] < curves[0][0]


def test_the_promised_number_of_blocks_is_the_masks() -> None:
    for ratio in (0.01, 0.5, 0.6, 0.99):
        method: Any = make_method("spark", SHAPES["2d"], mask_ratio=ratio)
        visible = method.views(make_crops(method), seeded())["visible"]
        assert visible.flatten(1).sum(1).unique().tolist() == [method.visible_blocks()]


def test_the_state_does_not_know_the_executor() -> None:
    """So a run may be continued, and its weights used, with the other one."""
    method: SparK = make_method("spark", SHAPES["2d"])  # type: ignore[assignment]
    before = list(method.state_dict())
    method.use_executor("tiles")
    assert list(method.state_dict()) == before
