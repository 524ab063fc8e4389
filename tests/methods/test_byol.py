from __future__ import annotations

import copy

import pytest
import torch

from nnssl.methods.byol import BYOL
from nnssl.networks.momentum import cosine_momentum
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded
from tests.methods.spread import assert_spreading_changes_nothing
from tests.oracles import cosine as oracle


def make(shape: str = "2d", alive: bool = True, **options: object) -> BYOL:
    method = make_method("byol", SHAPES[shape], **{"hidden": 64, "out": 32, **options})
    assert isinstance(method, BYOL)
    if alive:
        liven(method)
    return method


def step(method: BYOL, optimizer: torch.optim.Optimizer, seed: int = 0, batch: int = 2, progress: float = 0.1) -> float:
    """One step as the trainer makes it."""
    loss = method(method.views(make_crops(method, batch), seeded(seed))).total
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    method.after_step(progress)
    return loss.item()


def adamw(method: BYOL, lr: float = 3e-3) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr)


def test_loss_is_the_cosine_of_predictions_and_the_teachers_other_view() -> None:
    method = make().eval()
    views = method.views(make_crops(method), seeded())
    p = [method.predictor(method.projector(method.backbone(views[v]))) for v in ("view_1", "view_2")]
    t = [method.teacher_projector(method.teacher_backbone(views[v])) for v in ("view_1", "view_2")]
    expected = 2 + sum(oracle.negative_cosine(p[i].detach().numpy(), t[1 - i].numpy()) for i in (0, 1))
    assert method(views).total.item() == pytest.approx(expected, rel=1e-4)


def test_swapping_the_views_changes_nothing() -> None:
    method = make()
    views = method.views(make_crops(method), seeded())
    swapped = {**views, "view_1": views["view_2"], "view_2": views["view_1"]}
    assert torch.allclose(method(views).total, method(swapped).total, atol=1e-6)


def test_the_teacher_starts_as_the_student_follows_it_and_gets_no_gradient() -> None:
    method = make(alive=False, momentum_start=0.9)
    pairs = [(method.backbone, method.teacher_backbone.module), (method.projector, method.teacher_projector.module)]
    before = [[p.clone() for p in teacher.parameters()] for _, teacher in pairs]
    for (student, _), old in zip(pairs, before):
        assert all(torch.equal(p, q) for p, q in zip(student.parameters(), old))
    step(method, adamw(method), progress=0.5)
    momentum = cosine_momentum(0.9, 0.5)
    for (student, teacher), old in zip(pairs, before):
        for p, was, now in zip(student.parameters(), old, teacher.parameters()):
            assert torch.allclose(now, momentum * was + (1 - momentum) * p, atol=1e-6)
            assert now.grad is None
            assert not now.requires_grad


def test_batch_norm_sees_both_views_so_two_crops_leave_a_gradient() -> None:
    method = make()
    method(method.views(make_crops(method, 2), seeded())).total.backward()
    assert method.backbone.encoder.stem.convs[0].conv.weight.grad.abs().max() > 1e-4  # type: ignore[union-attr]


def test_batch_norm_keeps_crops_apart_and_layer_norm_does_not() -> None:
    spread = {}
    for norm in ("batch", "layer"):
        method = make(alive=False, head_norm=norm)
        optimizer = adamw(method)
        for number in range(25):
            step(method, optimizer, number)
        method.eval()
        method(method.views(make_crops(method, 8), seeded()))
        spread[norm] = method.diagnostics()["embedding_std"]
    assert spread["layer"] < 0.1 < 0.4 < spread["batch"]


def test_it_learns_to_predict_the_teacher() -> None:
    method = make(alive=False)
    optimizer = adamw(method)
    views = method.views(make_crops(method), seeded())
    losses = []
    for number in range(40):
        loss = method(views).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(number / 40)
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]


def test_validation_changes_no_state() -> None:
    method = make()
    step(method, adamw(method))
    before = copy.deepcopy(method.state_dict())
    method.eval()
    method(method.views(make_crops(method), seeded(1)))
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


def test_going_on_from_a_state_between_steps_is_the_same_run() -> None:
    method = make()
    step(method, adamw(method))
    resumed = make()
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    ours, theirs = adamw(method), adamw(resumed)
    for number in range(2):
        assert step(method, ours, number) == step(resumed, theirs, number)
    assert all(torch.equal(v, method.state_dict()[k]) for k, v in resumed.state_dict().items())


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
    assert 0 <= loss <= 4
    for name, p in method.named_parameters():
        assert not p.requires_grad or (p.grad is not None and p.grad.isfinite().all()), name


def test_what_is_exported_is_the_teachers_encoder_unless_asked_otherwise() -> None:
    method = make()
    assert method.exported().encoder is method.teacher_backbone.module.encoder
    assert method.exported().decoder is None
    student = make(export="student")
    assert student.exported().encoder is student.backbone.encoder
    assert set(method.exported().encoder.state_dict()) == set(student.exported().encoder.state_dict())


def test_advice() -> None:
    assert make().advice(100, 2) == []
    assert "needs other crops" in make().advice(100, 1)[0]
    assert "one point" in make(head_norm="layer").advice(100, 8)[0]
