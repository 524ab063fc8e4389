from __future__ import annotations

import copy

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.losses import Ranks
from nnssl.methods.ibot import IBOT
from nnssl.methods.masked_distillation import image_share
from tests.losses.two_ranks import play_ranks
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded
from tests.methods.spread import assert_spreading_changes_nothing
from tests.oracles import distillation as oracle

SMALL = {"hidden": 32, "bottleneck": 16, "prototypes": 12, "n_local": 1}


def make(shape: str = "2d", alive: bool = True, **options: object) -> IBOT:
    method = make_method("ibot", SHAPES[shape], **{**SMALL, **options})
    assert isinstance(method, IBOT)
    if alive:
        liven(method)
    return method.train()


def step(method: IBOT, seed: int = 0) -> torch.Tensor:
    """Forward, backward, and what follows an optimiser step; returns the loss."""
    loss = method(method.views(make_crops(method, seed=seed), seeded(seed))).total
    loss.backward()
    method.after_step(0.5)
    return loss.detach()


def rows(features: torch.Tensor) -> torch.Tensor:
    """(B, F, *grid) -> (B, P, 2F), position by position."""
    flat = [features[(slice(None), slice(None), *i)] for i in torch.ones(features.shape[2:]).nonzero().tolist()]
    return torch.stack([torch.cat([f, f], dim=1) for f in flat], dim=1)


def shown(method: IBOT, views: dict[str, torch.Tensor], k: int) -> torch.Tensor:
    """View k with the token in every hidden block, block by block."""
    image = views[f"view_{k}"].clone()
    token = method.token.values.detach().view(image.shape[1], *method.block)
    for b, *place in (~views[f"visible_{k}"][:, 0]).nonzero().tolist():
        image[(b, slice(None), *(slice(i * n, (i + 1) * n) for i, n in zip(place, method.block)))] = token
    return image


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", ["2d", "anisotropic"])
def test_patch_loss_agrees_with_the_oracle(shape: str, shared: bool) -> None:
    method = make(shape, shared_head=shared)
    for seed in range(2):  # so that centre and norm are not what they started as
        step(method, seed)
    method.eval()
    views = method.views(make_crops(method), seeded(7))
    head = method.head if shared else method.patch_head
    teacher = method.teacher_head if shared else method.patch_teacher_head
    assert head is not None
    assert teacher is not None
    assert method.patch_norm is not None
    scores, answers, weights = [], [], []
    with torch.no_grad():
        for k in (1, 2):
            student_map = method.backbone.feature_map(shown(method, views, k))
            teacher_map = method.teacher_encoder(views[f"view_{k}"])[-1]
            scores.append(head(method.patch_norm(rows(student_map)))[1])
            logits = teacher(method.patch_norm(rows(teacher_map)))[1] - method.patch_centre.value
            answers.append(torch.softmax(logits / method.temperature, dim=-1))
            hidden = ~views[f"visible_{k}"].flatten(1)
            weights.append(image_share(views[f"inside_{k}"], method.stride) * hidden)
        losses = method(views)
    expected = oracle.position_distillation(
        torch.cat(scores).numpy(), torch.cat(answers).numpy(), torch.cat(weights).numpy(), 0.1
    )
    assert losses.terms["patch"].item() == pytest.approx(expected, rel=1e-4)
    assert losses.total.item() == pytest.approx(sum(losses.terms[k].item() for k in ("global", "patch")), rel=1e-5)


def test_the_student_sees_nothing_that_is_hidden_and_the_teacher_all() -> None:
    method = make(n_local=0)
    views = method.views(make_crops(method), seeded())
    spoilt = dict(views)
    for k in (1, 2):
        seen = views[f"visible_{k}"].repeat_interleave(4, 2).repeat_interleave(4, 3)
        spoilt[f"view_{k}"] = torch.where(seen, views[f"view_{k}"], torch.randn(views[f"view_{k}"].shape))
    assert all(torch.equal(a, b) for a, b in zip(method.shown(views), method.shown(spoilt)))
    targets = [method.teach([v["view_1"], v["view_2"]])[1] for v in (views, spoilt)]
    assert not torch.allclose(*targets)


def test_padding_is_never_scored() -> None:
    method = make()
    crops = make_crops(method)
    crops.inside[:, 0, 0] = 12  # the upper half of every crop is padding
    crops.images[:, :, :12] = 0
    views = {**method.views(crops, seeded()), "inside_1": torch.zeros(4, 1, 24, 16, dtype=torch.bool)}
    views["inside_2"] = torch.zeros_like(views["inside_1"])
    assert method(views).terms["patch"].item() == 0.0
    views["inside_1"][0, :, :4, :4] = True  # one position of one crop
    views["visible_1"][0, :, 0, 0] = True
    assert method(views).terms["patch"].item() == 0.0, "it was visible"
    views["visible_1"][0, :, 0, 0] = False
    assert method(views).terms["patch"].item() > 0


def test_share_of_image_per_position() -> None:
    inside = torch.zeros(1, 1, 4, 8, dtype=torch.bool)
    inside[..., :2, :6] = True
    assert image_share(inside, (4, 4)).tolist() == [[0.5, 0.25]]
    assert image_share(torch.ones(2, 1, 6, 4, 4, dtype=torch.bool), (1, 2, 4)).tolist() == [[1.0] * 12] * 2


def test_hides_the_share_that_is_asked_for_in_blocks() -> None:
    method = make("3d", mask_ratio=0.25, block=8)
    views = method.views(make_crops(method), seeded())
    assert views["visible_1"].shape == (4, 1, 2, 2, 2)
    assert (~views["visible_1"]).flatten(1).sum(1).tolist() == [2] * 4
    assert not torch.equal(views["visible_1"], views["visible_2"])
    assert torch.isfinite(step(method))
    with pytest.raises(NnsslError, match="multiple of the encoder's total stride"):
        make("3d", block=2)


def test_patch_means_leave_out_padding() -> None:
    method = make(n_local=0)
    views = method.views(make_crops(method), seeded())
    views["inside_1"] = torch.zeros_like(views["inside_1"])
    views["inside_2"] = torch.zeros_like(views["inside_2"])
    views["inside_2"][:, :, 4:8, :] = True  # the second row of positions
    teacher_rows = rows(method.teacher_encoder(views["view_2"])[-1])[:, 4:8]
    method(views)
    method.after_step(0.5)
    assert method.patch_norm is not None
    mean, square = method.patch_norm.moments.value.chunk(2)
    assert torch.allclose(mean, teacher_rows.mean((0, 1)), atol=1e-5)
    assert torch.allclose(square, teacher_rows.square().mean((0, 1)), atol=1e-4)


def test_heads_are_shared_or_not() -> None:
    assert make().patch_head is None
    method = make(shared_head=False, momentum_start=0.5, alive=False)
    assert len(method.teachers()) == 3
    assert method.patch_head is not None
    assert method.patch_teacher_head is not None
    with torch.no_grad():
        method.patch_head.prototypes.weight.fill_(1.0)
    before = method.patch_teacher_head.module.prototypes.weight.clone()
    method.after_step(0.0)
    after = method.patch_teacher_head.module.prototypes.weight
    assert torch.allclose(after, (before + 1) / 2, atol=1e-6)


def test_weights_and_diagnostics() -> None:
    method = make(global_weight=0.5, patch_weight=2.0).eval()
    with torch.no_grad():
        losses = method(method.views(make_crops(method), seeded()))
    expected = 0.5 * losses.terms["global"] + 2.0 * losses.terms["patch"]
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)
    found = method.diagnostics()
    assert 0 < found["patch_assignment_entropy"] <= found["patch_usage_entropy"] <= 1.0001


def test_preview_shows_what_the_student_saw() -> None:
    method = make("3d")
    views = method.views(make_crops(method), seeded())
    pictures = method.preview(views)
    assert list(pictures) == ["view 1", "view 1, student", "view 2", "view 2, student", "local 1"]
    hidden = torch.isnan(pictures["view 2, student"]).float().mean().item()
    assert hidden == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("options", [{}, {"shared_head": False, "n_local": 0}])
def test_a_batch_spread_over_processes(monkeypatch: pytest.MonkeyPatch, options: dict) -> None:
    method = make(**options)
    views = method.views(make_crops(method), seeded())
    first, second, whole = assert_spreading_changes_nothing(monkeypatch, method, views, (3, 1))
    for part in (first, second):
        for (key, ours), theirs in zip(whole.named_buffers(), part.buffers()):
            assert torch.allclose(ours, theirs, atol=1e-5), key


def test_validation_counts_the_positions_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make("3d").eval()
    views = method.views(make_crops(method), seeded())
    with torch.no_grad():
        first, _, whole = (m.diagnostics() for m in _evaluated(monkeypatch, method, views))
    assert first == pytest.approx(whole, rel=1e-3)


def _evaluated(monkeypatch: pytest.MonkeyPatch, method: IBOT, views: dict[str, torch.Tensor]) -> list[IBOT]:
    def part(ranks: Ranks, begin: int, end: int) -> IBOT:
        mine = copy.deepcopy(method)
        mine.assign_ranks(ranks)
        with torch.no_grad():
            mine({k: v[begin:end] for k, v in views.items()})
        return mine

    whole = copy.deepcopy(method)
    whole(views)
    return [*play_ranks(monkeypatch, (3, 1), part), whole]
