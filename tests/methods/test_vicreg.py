from __future__ import annotations

import pytest
import torch

from nnssl.methods.vicreg import VICReg
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded
from tests.methods.spread import assert_spreading_changes_nothing
from tests.oracles import vicreg as oracle


def make(shape: str = "2d", alive: bool = True, **options: object) -> VICReg:
    method = make_method("vicreg", SHAPES[shape], **{"hidden": 32, "out": 16, **options})
    assert isinstance(method, VICReg)
    if alive:
        liven(method)
    return method


def test_loss_is_that_of_the_expanded_views() -> None:
    method = make(invariance=5.0, variance=3.0, covariance=2.0).eval()
    views = method.views(make_crops(method), seeded())
    z1, z2 = (method.expander(method.backbone(views[v])).detach().numpy() for v in ("view_1", "view_2"))
    assert method(views).total.item() == pytest.approx(oracle.vicreg(z1, z2, (5.0, 3.0, 2.0)), rel=1e-4)


def test_parts_are_logged_without_their_weights() -> None:
    method = make()
    losses = method(method.views(make_crops(method), seeded()))
    parts = losses.terms
    total = 25 * parts["invariance"] + 25 * parts["variance"] + parts["covariance"]
    assert torch.allclose(losses.total, total, rtol=1e-5)
    assert not any(p.requires_grad for p in parts.values())


def test_it_learns_embeddings_that_agree_and_vary() -> None:
    method = make(alive=False)
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    views = method.views(make_crops(method), seeded())
    first = method(views).terms
    for _ in range(40):
        losses = method(views)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.terms["variance"] < 0.5 * first["variance"]
    method.eval()
    method(views)
    assert method.diagnostics()["knn_agreement"] == 1


@pytest.mark.parametrize("head_norm", ["layer", "batch"])
def test_spread_over_processes_it_is_the_same_step(monkeypatch: pytest.MonkeyPatch, head_norm: str) -> None:
    method = make(head_norm=head_norm)
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


def test_crops_that_all_look_the_same_have_finite_gradients() -> None:
    method = make(p_intensity=0, p_noise=0, p_blur=0)
    views = {k: torch.ones_like(v) for k, v in method.views(make_crops(method), seeded()).items()}
    losses = method(views)
    losses.total.backward()
    assert losses.terms["variance"].item() == pytest.approx(1.98, abs=0.01)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_what_is_exported_is_the_encoder_alone() -> None:
    method = make()
    assert method.exported().encoder is method.backbone.encoder
    assert method.exported().decoder is None


def test_advice() -> None:
    assert make().advice(100, 8) == []
    assert "covariance of 16 dimensions is measured on 4 crops" in make().advice(100, 4)[0]
    assert "need several crops" in make().advice(100, 1)[0]
