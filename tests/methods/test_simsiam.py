from __future__ import annotations

import pytest
import torch
from torch import nn

from nnssl.methods.simsiam import SimSiam
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded
from tests.methods.spread import assert_spreading_changes_nothing
from tests.oracles import cosine as oracle


def make(shape: str = "2d", alive: bool = True, **options: object) -> SimSiam:
    method = make_method("simsiam", SHAPES[shape], **{"hidden": 64, "out": 64, "bottleneck": 16, **options})
    assert isinstance(method, SimSiam)
    if alive:
        liven(method)
    return method


def test_heads_are_those_of_the_paper() -> None:
    method = make()
    widths = [(m.in_features, m.out_features) for m in method.projector if isinstance(m, nn.Linear)]
    assert widths == [(method.backbone.width, 64), (64, 64), (64, 64)]
    assert isinstance(method.projector[-1], nn.BatchNorm1d)
    assert [(m.in_features, m.out_features) for m in method.predictor if isinstance(m, nn.Linear)] == [
        (64, 16),
        (16, 64),
    ]
    assert isinstance(method.predictor[-1], nn.Linear)


def test_loss_is_the_cosine_of_predictions_and_the_other_views_embedding() -> None:
    method = make().eval()
    views = method.views(make_crops(method), seeded())
    z = [method.projector(method.backbone(views[v])) for v in ("view_1", "view_2")]
    p = [method.predictor(x) for x in z]
    cosines = [oracle.negative_cosine(p[i].detach().numpy(), z[1 - i].detach().numpy()) for i in (0, 1)]
    assert method(views).total.item() == pytest.approx(1 + sum(cosines) / 2, rel=1e-4)


def test_the_gradient_stops_at_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the predictor's gradient cut, nothing is left that could reach the encoder."""
    method = make()
    forward = method.predictor.forward
    monkeypatch.setattr(method.predictor, "forward", lambda z: forward(z.detach()))
    method(method.views(make_crops(method), seeded())).total.backward()
    assert all(p.grad is None for p in method.backbone.parameters())
    assert all(p.grad is not None for p in method.predictor.parameters())


def test_batch_norm_keeps_crops_apart_and_layer_norm_does_not() -> None:
    spread = {}
    for norm in ("batch", "layer"):
        method = make(alive=False, head_norm=norm)
        optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
        crops = make_crops(method, 2)
        for number in range(25):
            optimizer.zero_grad()
            method(method.views(crops, seeded(number))).total.backward()
            optimizer.step()
        method.eval()
        method(method.views(make_crops(method, 8), seeded()))
        spread[norm] = method.diagnostics()["embedding_std"]
    assert spread["layer"] < 0.1 < 0.5 < spread["batch"]


def test_it_learns_to_predict_the_other_view() -> None:
    method = make(alive=False)
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    views = method.views(make_crops(method), seeded())
    losses = []
    for _ in range(60):
        loss = method(views).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.7
    assert losses[-1] < 0.3


@pytest.mark.parametrize("head_norm", ["layer", "batch"])
def test_spread_over_processes_it_is_the_same_step(monkeypatch: pytest.MonkeyPatch, head_norm: str) -> None:
    method = make(head_norm=head_norm)
    views = method.views(make_crops(method), seeded())
    *parts, whole = assert_spreading_changes_nothing(monkeypatch, method, views, (3, 1))
    for part in parts:
        assert all(torch.allclose(v, part.state_dict()[k], atol=1e-5) for k, v in whole.state_dict().items())


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_batch_of_any_shape_is_finite(shape: str, batch: int) -> None:
    method = make(shape)
    loss = method(method.views(make_crops(method, batch), seeded())).total
    loss.backward()
    assert loss.isfinite()
    assert 0 <= loss <= 2
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_what_is_exported_is_the_encoder_alone() -> None:
    method = make()
    assert method.exported().encoder is method.backbone.encoder
    assert method.exported().decoder is None


def test_advice() -> None:
    assert make().advice(100, 2) == []
    assert "needs other crops" in make().advice(100, 1)[0]
    assert "one point" in make(head_norm="none").advice(100, 8)[0]
