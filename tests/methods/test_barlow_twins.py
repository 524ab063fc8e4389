from __future__ import annotations

import pytest
import torch

from nnssl.methods.barlow_twins import BarlowTwins
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded
from tests.methods.spread import assert_spreading_changes_nothing
from tests.oracles import barlow_twins as oracle


def make(shape: str = "2d", alive: bool = True, **options: object) -> BarlowTwins:
    method = make_method("barlow_twins", SHAPES[shape], **{"hidden": 32, "out": 16, **options})
    assert isinstance(method, BarlowTwins)
    if alive:
        liven(method)
    return method


@pytest.mark.parametrize("statistics", ["both", "view"])
def test_loss_is_that_of_the_projected_views(statistics: str) -> None:
    method = make(redundancy=0.1, statistics=statistics).eval()
    liven(method, std=0.5)  # so that variances are large against the loss' eps
    views = method.views(make_crops(method), seeded())
    z1, z2 = (method.projector(method.backbone(views[v])).detach().numpy() for v in ("view_1", "view_2"))
    expected = oracle.barlow_twins(z1, z2, 0.1, joint=statistics == "both") / 16
    assert method(views).total.item() == pytest.approx(expected, rel=1e-2)


def test_parts_are_logged_without_their_weights() -> None:
    method = make(redundancy=0.1)
    losses = method(method.views(make_crops(method), seeded()))
    assert torch.allclose(losses.total, losses.terms["on_diagonal"] + 0.1 * losses.terms["off_diagonal"], rtol=1e-4)
    assert not any(p.requires_grad for p in losses.terms.values())


@pytest.mark.parametrize("batch", [2, 4])
def test_it_learns_correlated_views(batch: int) -> None:
    method = make(alive=False)
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    views = method.views(make_crops(method, batch), seeded())
    for _ in range(30):
        losses = method(views)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.terms["on_diagonal"] < 0.1
    method.eval()
    method(views)
    assert method.diagnostics()["knn_agreement"] == 1


@pytest.mark.parametrize("head_norm", ["layer", "batch"])
def test_spread_over_processes_it_is_the_same_step(monkeypatch: pytest.MonkeyPatch, head_norm: str) -> None:
    method = make(head_norm=head_norm)
    liven(method, std=0.3)  # scaling to variance 1 would blow up the rounding errors of smaller embeddings
    views = method.views(make_crops(method), seeded())
    assert_spreading_changes_nothing(monkeypatch, method, views, (3, 1))


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_batch_of_any_shape_is_finite(shape: str, batch: int) -> None:
    method = make(shape)
    loss = method(method.views(make_crops(method, batch), seeded())).total
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert batch == 1 or all(p.grad.abs().sum() > 0 for p in method.parameters())


def test_what_is_exported_is_the_encoder_alone() -> None:
    method = make()
    assert method.exported().encoder is method.backbone.encoder
    assert method.exported().decoder is None


def test_advice() -> None:
    assert make().advice(100, 8) == []
    assert "16 dimensions is measured on 2 crops" in make().advice(100, 2)[0]
    assert "nothing to learn" in make().advice(100, 1)[0]
    assert "or use statistics=both" in make(statistics="view").advice(100, 2)[0]
