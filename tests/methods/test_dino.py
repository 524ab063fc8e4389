from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from nnssl.losses.distillation import entropy, sharpen
from nnssl.losses.sinkhorn import sinkhorn
from nnssl.methods.dino import DINO
from nnssl.networks.momentum import cosine_momentum
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded
from tests.methods.spread import assert_spreading_changes_nothing
from tests.oracles import distillation as oracle

SMALL = {"hidden": 32, "bottleneck": 16, "prototypes": 12, "n_local": 2}


def make(shape: str = "2d", alive: bool = True, **options: object) -> DINO:
    method = make_method("dino", SHAPES[shape], **{**SMALL, **options})
    assert isinstance(method, DINO)
    if alive:
        liven(method)
    return method.train()


def step(method: DINO, optimizer: torch.optim.Optimizer | None = None, seed: int = 0, progress: float = 0.5) -> float:
    """One step as the trainer makes it; without an optimiser only what follows it."""
    method.zero_grad()
    loss = method(method.views(make_crops(method, seed=seed), seeded(seed))).total
    loss.backward()
    if optimizer is not None:
        optimizer.step()
    method.after_step(progress)
    return loss.item()


def adamw(method: DINO, lr: float = 3e-3) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr)


def teacher_scores(method: DINO, views: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, 2, K), view by view."""
    found = []
    for name in ("view_1", "view_2"):
        features = method.teacher_encoder(views[name])[-1]
        x = torch.cat([features.flatten(2).mean(2), features.flatten(2).amax(2)], dim=1)
        found.append(method.teacher_head(method.norm(x) if method.norm is not None else x)[1])
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("shape", ["2d", "anisotropic"])
def test_loss_compares_every_view_with_the_teachers_other_one(shape: str) -> None:
    method = make(shape)
    for seed in range(3):  # so that centre and norm are not what they started as
        step(method, seed=seed)
    method.eval()
    views = method.views(make_crops(method), seeded(7))
    names = ["view_1", "view_2", "local_1", "local_2"]
    assert method.norm is not None
    student = torch.stack([method.head(method.norm(method.backbone(views[n])))[1] for n in names], dim=1)
    logits = (teacher_scores(method, views) - method.centre.value) / method.temperature
    teacher = torch.softmax(logits, dim=-1)
    expected = oracle.view_distillation(student.detach().numpy(), teacher.numpy(), 0.1)
    losses = method(views)
    assert losses.total.item() == pytest.approx(expected, rel=1e-4)
    assert losses.terms["teacher_entropy"].item() == pytest.approx(entropy(teacher).mean().item(), rel=1e-4)


def test_small_views_are_small_and_may_be_left_out() -> None:
    views = make("3d", n_local=3).views(make_crops(make("3d")), seeded())
    assert [views[f"local_{k}"].shape for k in (1, 2, 3)] == [(4, 1, 8, 8, 8)] * 3
    thick = make("anisotropic").views(make_crops(make("anisotropic")), seeded())
    assert thick["local_1"].shape[2:] == (6, 8, 12), "thick slices stay"
    assert set(make(n_local=0).views(make_crops(make()), seeded())) == {"view_1", "view_2", "case"}
    step(make(n_local=0))


def test_views_of_one_size_share_a_pass_and_nothing_else() -> None:
    method = make()
    views = method.views(make_crops(method), seeded())
    together = method(views).total
    calls = []
    encoder = method.backbone.encoder
    handle = encoder.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape))
    method(views)
    handle.remove()
    assert [tuple(c) for c in calls] == [(8, 1, 24, 16), (8, 1, 12, 8)]
    one_by_one = [method.scores([method.backbone.feature_map(v)]) for k, v in views.items() if k != "case"]
    targets = sharpen(teacher_scores(method, views), method.centre.value, method.temperature)
    expected = oracle.view_distillation(torch.cat(one_by_one, dim=1).detach().numpy(), targets.numpy(), 0.1)
    assert together.item() == pytest.approx(expected, rel=1e-4)


def test_running_means_are_those_of_the_teacher_and_move_after_the_step_only() -> None:
    method = make(centre_momentum=0.9)
    views = method.views(make_crops(method), seeded())
    expected = teacher_scores(method, views).mean((0, 1))
    method(views).total.backward()
    assert method.centre.value.abs().max() == 0
    method.after_step(0.1)
    assert torch.allclose(method.centre.value, expected, atol=1e-6)
    assert method.norm is not None
    mean, square = method.norm.moments.value.chunk(2)
    assert (square - mean.square()).min() > -1e-5
    assert mean.abs().max() > 0


def test_temperature_momentum_and_freezing_follow_the_run() -> None:
    method = make(teacher_temperature=0.07, temperature_warmup=0.5, freeze=0.2, momentum_start=0.9)
    temperatures = [method.temperature.item()]
    prototypes = method.head.prototypes.weight
    moved = []
    for progress in (0.1, 0.25, 0.5, 1.0):
        step(method, progress=progress)
        assert prototypes.grad is not None
        moved.append(bool(prototypes.grad.abs().max() > 0))
        temperatures.append(method.temperature.item())
    assert temperatures == pytest.approx([0.04, 0.046, 0.055, 0.07, 0.07])
    assert moved == [False, False, True, True]
    method = make(alive=False, momentum_start=0.9)
    old = [p.clone() for p in method.teacher_encoder.parameters()]
    step(method, adamw(method), progress=0.5)
    momentum = cosine_momentum(0.9, 0.5)
    for was, now, student in zip(old, method.teacher_encoder.parameters(), method.backbone.encoder.parameters()):
        assert torch.allclose(now, momentum * was + (1 - momentum) * student, atol=1e-6)


def test_sinkhorn_replaces_the_centre() -> None:
    method = make(centring="sinkhorn").eval()
    views = method.views(make_crops(method), seeded())
    scores = teacher_scores(method, views)
    _, targets = method.teach([views["view_1"], views["view_2"]])
    expected = sinkhorn(torch.cat(list(scores.transpose(0, 1))), 0.04).view(2, 4, -1).transpose(0, 1)
    assert torch.allclose(targets, expected, atol=1e-5)
    step(method.train())
    assert method.centre.value.abs().max() == 0
    assert make(centring="sinkhorn", prototypes=64).advice(100, 4)
    assert not make(centring="sinkhorn", prototypes=8).advice(100, 4)
    assert not make(prototypes=64).advice(100, 4)


def test_the_running_norm_keeps_crops_apart() -> None:
    """Without it the teacher soon gives all crops about the same answer; this is why it is the default."""
    spread, differ = {}, {}
    for norm in ("running", "none"):
        method = make(alive=False, feature_norm=norm, freeze=0, prototypes=64, bottleneck=64, n_local=0)
        optimizer = adamw(method, 1e-3)
        for number in range(15):
            step(method, optimizer, number, progress=0.1)
        method.eval()
        with torch.no_grad():
            method(method.views(make_crops(method, batch=8), seeded(99)))
        found = method.diagnostics()
        spread[norm] = found["embedding_std"]
        differ[norm] = found["usage_entropy"] - found["assignment_entropy"]
    assert spread["running"] > 0.5 > 0.3 > spread["none"]
    assert differ["running"] > 3 * differ["none"]


def test_fixed_views_are_learnt() -> None:
    """The loss has the teacher's entropy as its floor, which centring raises first; what is learnt is the distance."""
    method = make(alive=False, prototypes=64, bottleneck=64)
    views = method.views(make_crops(method), seeded())
    optimizer = adamw(method, 1e-3)
    distance = []
    for number in range(25):
        losses = method(views)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        method.after_step((number + 1) / 25)
        distance.append((losses.total - losses.terms["teacher_entropy"]).item())
    assert 0 <= distance[-1] < 0.5 * max(distance)
    assert losses.terms["teacher_entropy"].item() < 0.97 * math.log(64), "and not by giving up"


def test_diagnostics_and_health() -> None:
    method = make().eval()
    with torch.no_grad():
        method(method.views(make_crops(method, batch=8), seeded()))
    found = method.diagnostics()
    assert set(found) == {"embedding_std", "effective_rank", "knn_agreement", "usage_entropy", "assignment_entropy"}
    assert 0 < found["assignment_entropy"] <= found["usage_entropy"] <= 1.0001
    healthy = {"embedding_std": 0.9, "effective_rank": 20.0, "usage_entropy": 0.9, "assignment_entropy": 0.5}
    assert method.health(healthy) == []
    assert "one prototype" in method.health({**healthy, "usage_entropy": 0.01, "assignment_entropy": 0.0})[0]
    assert "same assignment" in method.health({**healthy, "assignment_entropy": 0.899})[0]
    assert "positions" in method.health({**healthy, "patch_usage_entropy": 0.0, "patch_assignment_entropy": 0.0})[0]


def test_all_crops_alike_is_seen_as_a_collapse() -> None:
    method = make().eval()
    crops = make_crops(method)
    views = method.views(crops, seeded())
    alike = {k: v[:1].expand_as(v) for k, v in views.items()}
    alike["view_2"] = alike["view_1"]
    with torch.no_grad():
        method(alike)
    assert any("same assignment" in line for line in method.health(method.diagnostics()))


@pytest.mark.parametrize("whose", ["teacher", "student"])
def test_export(whose: str) -> None:
    method = make(export=whose)
    expected = method.teacher_encoder.module if whose == "teacher" else method.backbone.encoder
    assert method.exported().encoder is expected
    assert method.exported().decoder is None


def test_both_sources_feed_small_views() -> None:
    method = make(positives="subject")
    crops = make_crops(make(), partner=True)
    assert crops.partner is not None
    views = method.views(crops, seeded())
    crops.partner.images.zero_()
    without = method.views(crops, seeded())
    changed = [k for k in views if k != "case" and not torch.equal(views[k], without[k])]
    assert changed == ["view_2", "local_2"]


@pytest.mark.parametrize("options", [{}, {"centring": "sinkhorn"}, {"feature_norm": "none", "n_local": 0}])
def test_a_batch_spread_over_processes(monkeypatch: pytest.MonkeyPatch, options: dict) -> None:
    method = make(**options)
    views = method.views(make_crops(method), seeded())
    first, second, whole = assert_spreading_changes_nothing(monkeypatch, method, views, (3, 1))
    for part in (first, second):
        for (key, ours), theirs in zip(whole.named_buffers(), part.buffers()):
            assert torch.allclose(ours, theirs, atol=1e-5), key


def test_embeddings_that_are_watched_are_the_teachers() -> None:
    method = make(feature_norm="none").eval()
    views = method.views(make_crops(method), seeded())
    with torch.no_grad():
        method(views)
        expected = method.teacher_head(method.backbone(views["view_2"]))[0]
    assert not torch.allclose(method._watched[0][1], expected), "the student was livened, the teacher was not"
    method.teacher_encoder.update(method.backbone.encoder, 0.0)
    method.teacher_head.update(method.head, 0.0)
    with torch.no_grad():
        method(views)
    watched = method._watched[1][1]
    assert torch.allclose(
        F.normalize(watched), F.normalize(method.head(method.backbone(views["view_2"]))[0]), atol=1e-5
    )
