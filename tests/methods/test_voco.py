from __future__ import annotations

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.methods import get_method
from nnssl.methods.voco import VoCo
from nnssl.networks import build_unet
from nnssl.views import Geometry, inside_box
from nnssl.views.grid_crops import cut, grid_cells
from tests.methods.cases import SHAPES, Shape, architecture, liven, make_crops, make_method, seeded
from tests.methods.spread import assert_spreading_changes_nothing
from tests.oracles import volume_contrast as oracle


def make(shape: str | Shape = "2d", **options: object) -> VoCo:
    method = make_method("voco", SHAPES[shape] if isinstance(shape, str) else shape, **options)
    assert isinstance(method, VoCo)
    return method


def test_the_crop_that_is_read_is_the_grid() -> None:
    assert (make("anisotropic").cells, make("anisotropic").cell) == ((1, 2, 2), (6, 8, 12))
    assert make("3d").read_size() == (16, 16, 16)
    odd = Shape((20, 28), (1.0, 1.0), SHAPES["2d"].strides, SHAPES["2d"].kernels)
    assert make(odd).read_size() == (16, 24), "cells are multiples of the total stride"


def test_a_patch_that_is_too_small_is_refused() -> None:
    shape = SHAPES["2d"]
    with pytest.raises(NnsslError, match="smaller grid"):
        cls = get_method("voco")
        cls(build_unet(architecture(shape), 1, 1), Geometry((16, 16), (1.0, 1.0)), 1, cls.Config(grid=3))


@pytest.mark.parametrize("shape", list(SHAPES))
def test_validation_views_are_exact_pieces_with_their_overlap(shape: str) -> None:
    method = make(shape, queries=3).eval()
    crops = make_crops(method)
    views = method.views(crops, seeded())
    inside = inside_box(crops.inside, method.read_size())
    for b in range(4):
        for q, place in enumerate(views["place"][b].tolist()):
            where = (b, slice(None), *(slice(p, p + n) for p, n in zip(place, method.cell)))
            assert torch.equal(views["queries"][b, q], crops.images[where])
            assert inside[where].all(), "queries lie in the image"
            expected = torch.tensor(oracle.grid_overlap(tuple(place), method.cell, method.cells))
            assert torch.allclose(views["overlap"][b, q], expected, atol=1e-6)
    assert views["scored"].all(), "the image reaches into every cell"


def test_training_changes_queries_but_not_the_cells_they_came_from() -> None:
    method = make()
    crops = make_crops(method)
    views = method.train().views(crops, seeded())
    assert torch.equal(views["bases"], grid_cells(crops.images, method.cells))
    pieces = torch.stack([cut(crops.images, views["place"][:, q], method.cell) for q in range(2)], dim=1)
    changed = (views["queries"] != pieces).flatten(2).any(2)
    assert changed.sum() >= 4, "most of the eight queries"
    mirrored = make(p_flip=1).views(crops, seeded())
    assert torch.equal(mirrored["bases"], grid_cells(crops.images.flip(2, 3), method.cells))


def test_cells_that_are_all_padding_are_not_scored() -> None:
    method = make().eval()
    liven(method)
    crops = make_crops(method)
    crops.inside[0, 0, 0] = 12  # the first two of four cells
    views = method.views(crops, seeded())
    assert views["scored"].tolist() == [[False, False, True, True]] + [[True] * 4] * 3
    noisy = {**views, "bases": views["bases"].clone()}
    noisy["bases"][0, :2] = torch.randn(2, 1, *method.cell)
    first, second = method(views), method(noisy)
    assert torch.equal(first.total, second.total)
    assert all(torch.equal(first.terms[k], second.terms[k]) for k in first.terms)


def test_loss_is_made_of_teacher_cells_student_queries_and_student_cells() -> None:
    method = make(separation=0.5).eval()
    liven(method)  # the teacher keeps its first weights, so the two differ
    views = method.views(make_crops(method), seeded())
    bases, queries = views["bases"].flatten(0, 1), views["queries"].flatten(0, 1)
    with torch.no_grad():
        z_cells = method.projector(method.backbone(bases)).view(4, 4, -1)
        z_queries = method.projector(method.backbone(queries)).view(4, 2, -1)
        t_cells = method.teacher_projector(method.teacher_backbone(bases)).view(4, 4, -1)
    cosine = torch.nn.functional.cosine_similarity(z_queries[:, :, None], t_cells[:, None], dim=3).clamp(min=0)
    counts = views["scored"].numpy()
    losses = method(views)
    overlap = oracle.overlap_loss(cosine.numpy(), views["overlap"].numpy(), counts)
    similarity = oracle.cell_similarity(z_cells.numpy(), counts)
    assert losses.terms["overlap_loss"].item() == pytest.approx(overlap, rel=0.02)  # the floor of the logarithm
    assert losses.terms["cell_similarity"].item() == pytest.approx(similarity, rel=1e-4)
    total = losses.terms["overlap_loss"] + 0.5 * losses.terms["cell_similarity"]
    assert torch.allclose(losses.total, total)
    assert losses.terms["overlap_error"].item() == pytest.approx(
        (cosine - views["overlap"]).abs().mean().item(), rel=1e-4
    )
    right = cosine.argmax(2) == views["overlap"].argmax(2)
    assert losses.terms["place_accuracy"].item() == pytest.approx(right.float().mean().item())


def test_cells_learn_from_their_separation_only() -> None:
    """The overlap term sees cells through the teacher, which has no gradient."""
    method = make().eval()
    views = method.views(make_crops(method), seeded())
    views["bases"].requires_grad_()
    (both,) = torch.autograd.grad(method(views).total, views["bases"])
    weak = make(separation=0.5).eval()
    (half,) = torch.autograd.grad(weak(views).total, views["bases"])
    assert both.abs().sum() > 0
    assert torch.allclose(half, both / 2, atol=1e-7)


def test_the_teacher_follows_and_gets_no_gradient() -> None:
    method = make(momentum=0.9)
    liven(method)
    teacher, student = method.teacher_backbone.module.encoder, method.backbone.encoder
    before = [p.clone() for p in teacher.parameters()]  # type: ignore[union-attr]
    method(method.views(make_crops(method), seeded())).total.backward()
    method.after_step(0.5)
    for p, old, online in zip(teacher.parameters(), before, student.parameters()):  # type: ignore[union-attr]
        assert p.grad is None
        assert torch.allclose(p, 0.9 * old + 0.1 * online, atol=1e-6)
    assert method.exported().encoder is student


def test_spread_over_processes_it_is_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make()
    views = method.views(make_crops(method), seeded())
    views["scored"][0, 0] = False
    *parts, whole = assert_spreading_changes_nothing(monkeypatch, method, views, (3, 1))
    ours, theirs = (dict(m.named_buffers()) for m in (parts[0], whole))
    assert all(torch.allclose(ours[k].float(), theirs[k].float(), atol=1e-5) for k in ours), "statistics of the norm"


def test_it_learns_where_queries_come_from() -> None:
    method = make(queries=4)
    crops = make_crops(method)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 1e-3)
    for number in range(50):
        losses = method(method.views(crops, seeded()))
        if number == 0:
            first = losses.terms["overlap_error"].item()
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        method.after_step(0.5)
    assert losses.terms["overlap_error"] < 0.5 * first
    assert losses.terms["place_accuracy"] > 0.7
    assert losses.terms["cell_similarity"] < 0.1


def test_preview_draws_the_overlap_where_the_query_is() -> None:
    method = make().eval()
    crops = make_crops(method)
    views = method.views(crops, seeded())
    pictures = method.preview(views)
    whole = pictures["crop and cells"]
    assert torch.equal(whole.isnan().sum((1, 2, 3)), torch.full((4,), 24 + 16 - 1)), "one line along each axis"
    assert torch.equal(whole[~whole.isnan()], crops.images[~whole.isnan()])
    low, high = crops.images.min(), crops.images.max()
    drawn = (pictures["overlap with the query"] - low) / (high - low)
    corners = drawn[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.allclose(corners, views["overlap"][:, 0], atol=1e-5)
    deep = make("3d").eval()
    pictures = deep.preview(deep.views(make_crops(deep), seeded()))
    assert pictures["query"].shape == (4, 1, 8, 8, 8)
    assert {p.shape for k, p in pictures.items() if k != "query"} == {(4, 1, 1, 16, 16)}


def test_the_slice_that_is_drawn_runs_through_the_query() -> None:
    method = make("3d").eval()
    crops = make_crops(method)
    views = method.views(crops, seeded())
    picture = method.preview(views)["crop and cells"]
    for b, place in enumerate(views["place"][:, 0, 0].tolist()):
        expected = crops.images[b, :, place + 4]
        seen = ~picture[b, :, 0].isnan()
        assert torch.equal(picture[b, :, 0][seen], expected[seen])


def test_health_notices_cells_that_look_alike() -> None:
    fine = {"embedding_std": 1.0, "effective_rank": 9.0}
    assert make().health({**fine, "val_cell_similarity": 0.1}) == []
    assert "same embedding" in make().health({**fine, "val_cell_similarity": 0.97})[0]
