from __future__ import annotations

import dataclasses

import pytest
import torch

from nnssl.methods.dclw import DCLW
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded
from tests.methods.spread import assert_spreading_changes_nothing
from tests.oracles import dclw as oracle


def make(**options: object) -> DCLW:
    method = make_method("dclw", SHAPES["2d"], **options)
    assert isinstance(method, DCLW)
    liven(method)
    return method


def test_loss_is_dclw_of_the_projected_views() -> None:
    method = make(temperature=0.2, sigma=0.3).eval()
    views = method.views(make_crops(method), seeded())
    z1, z2 = (method.projector(method.backbone(views[v])).detach().numpy() for v in ("view_1", "view_2"))
    loss, accuracy = oracle.dclw(z1, z2, 0.2, 0.3, 1 - torch.eye(4).numpy())
    losses = method(views)
    assert losses.total.item() == pytest.approx(loss, rel=1e-4)
    assert losses.terms["contrast_accuracy"].item() == pytest.approx(accuracy)


def test_a_batch_of_one_case_is_no_task_and_no_nan() -> None:
    method = make()
    crops = dataclasses.replace(make_crops(method), case=torch.zeros(4, dtype=torch.long))
    losses = method(method.views(crops, seeded()))
    losses.total.backward()
    assert losses.total == 0
    assert all((p.grad == 0).all() for p in method.parameters() if p.grad is not None)
    other = make(same_case_negatives=True)
    assert other(other.views(crops, seeded())).total != 0


@pytest.mark.parametrize("batch", [2, 4])
def test_it_learns_to_tell_crops_apart(batch: int) -> None:
    method = make_method("dclw", SHAPES["2d"])
    views = method.views(make_crops(method, batch), seeded())
    optimizer = torch.optim.AdamW(method.parameters(), 1e-3)
    for step in range(20):
        losses = method(views)
        if step == 0:
            first = losses.total.item()
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.total < first - 5
    assert losses.terms["contrast_accuracy"] == 1


def test_spread_over_processes_it_is_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make()
    views = method.views(make_crops(method), seeded())
    assert_spreading_changes_nothing(monkeypatch, method, views, (2, 2))


def test_advice_asks_for_less_than_simclr() -> None:
    assert make().advice(100, 4) == []
    assert "only 2 negatives" in make().advice(100, 2)[0]
