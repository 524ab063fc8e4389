from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.methods import CropBatch
from nnssl.methods.next_slice import NextSlice
from nnssl.views import inside_box
from tests.methods.cases import SHAPES, Shape, make_crops, make_method, seeded

SIDEWAYS = replace(SHAPES["3d"], size=(16, 24, 8), spacing=(1.0, 1.0, 4.0))
"""Slices along the last axis."""


def make(shape: Shape, **options: object) -> NextSlice:
    method = make_method("next_slice", shape, **options)
    assert isinstance(method, NextSlice)
    return method


def test_in_2d_one_slice_is_shown_and_a_later_one_is_wanted() -> None:
    method = make(SHAPES["2d"], gap=3).eval()
    assert method.read_size() == (4, 24, 16)
    crops = make_crops(method)
    views = method.views(crops, seeded())
    assert torch.equal(views["shown"], crops.images[:, :, 0])
    assert torch.equal(views["target"], crops.images[:, :, 3])
    assert torch.equal(views["scored"], inside_box(crops.inside[:, 1:], (24, 16)))
    assert not views["scored"].all(), "the batch has padding"


def test_in_2d_a_stack_that_leaves_its_image_does_not_count() -> None:
    method = make(SHAPES["2d"], gap=3).eval()
    crops = make_crops(method)
    crops.inside[0, 0, 0] = 1  # the slice to show is missing
    crops.inside[1, 0, 1] = 3  # the slice to predict is missing
    views = method.views(crops, seeded())
    assert views["scored"].flatten(1).any(1).tolist() == [False, False, True, True]
    losses = method(views)
    assert losses.terms["used"].item() == 0.5
    kept = {k: v[2:] for k, v in views.items()}
    assert torch.allclose(losses.total, method(kept).total)


@pytest.mark.parametrize("gap", [1, 3])
@pytest.mark.parametrize("shape", [SHAPES["3d"], SHAPES["anisotropic"], SIDEWAYS])
def test_in_3d_the_last_slices_of_the_image_are_hidden(shape: Shape, gap: int) -> None:
    method = make(shape, gap=gap).eval()
    assert method.read_size() == shape.size
    axis = shape.spacing.index(max(shape.spacing))
    crops = make_crops(method)
    crops.inside[0, axis] = torch.tensor([1, shape.size[axis] - 1])  # padded before and behind
    crops.inside[1, axis] = torch.tensor([2, 2 + gap])  # one slice too few
    views = method.views(crops, seeded())
    for b in range(4):
        begin, end = crops.inside[b, axis].tolist()
        for s in range(shape.size[axis]):
            shown, image, scored = (
                x.select(axis + 1, s) for x in (views["shown"][b], crops.images[b], views["scored"][b])
            )
            assert torch.equal(shown, image if s < end - gap else torch.zeros_like(image))
            assert scored.any() == (end - gap <= s < end and end - begin > gap)
        if b != 1:
            assert torch.equal(views["last"][b].squeeze(axis + 1), crops.images[b].select(axis + 1, end - gap - 1))
    assert torch.equal(views["target"], crops.images)
    assert not (views["scored"] & ~inside_box(crops.inside, shape.size)).any(), "padding never counts"
    assert method(views).terms["used"].item() == 0.75


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [SHAPES["2d"], SHAPES["anisotropic"], SIDEWAYS])
def test_what_is_to_be_predicted_is_not_shown(shape: Shape, training: bool) -> None:
    method = make(shape, gap=2, p_rotation=1.0, p_scaling=1.0).train(training)
    crops, other = make_crops(method), make_crops(method)
    other.images.movedim(method.axis + 2, 2)[:, :, -2:] += 1  # the last slices, in place
    before, after = (method.views(c, seeded()) for c in (crops, other))
    assert torch.equal(before["shown"], after["shown"])
    assert not torch.equal(before["target"], after["target"])


@pytest.mark.parametrize("shape", [SHAPES["2d"], SHAPES["anisotropic"], SIDEWAYS])
def test_all_slices_of_a_crop_are_augmented_alike_and_keep_their_order(shape: Shape) -> None:
    method = make(shape, gap=2, p_flip=1.0, p_rotation=1.0, p_scaling=1.0).train()
    crops = make_crops(method)
    slices = crops.images.movedim(method.axis + 2, 2)
    numbers = torch.arange(slices.shape[2]).view(1, 1, -1, 1, 1)
    slices.copy_(
        (slices[:, :, :1] + 100 * numbers).expand_as(slices).clone()
    )  # one picture, brighter from slice to slice
    moved, inside = method._slices(crops, seeded())
    apart = (moved[:, :, 1:] - moved[:, :, :-1])[inside[:, :, None].expand_as(moved[:, :, 1:])]
    assert torch.allclose(apart, torch.tensor(100.0), atol=0.2)
    assert not torch.allclose(moved[:, :, 0], slices[:, :, 0]), "the slices were augmented"


def test_loss_is_that_of_the_scored_voxels() -> None:
    method = make(SHAPES["anisotropic"], gap=2).eval()
    views = method.views(make_crops(method), seeded())
    losses = method(views)
    prediction = method.network(views["shown"])
    squared = (prediction - views["target"]).square()
    assert losses.total.item() == pytest.approx(squared[views["scored"].expand_as(squared)].mean().item(), rel=1e-5)
    repeated = (views["last"] - views["target"]).square()
    assert losses.terms["repeat_mse"].item() == pytest.approx(
        repeated[views["scored"].expand_as(repeated)].mean().item(), rel=1e-5
    )


def test_slices_along_the_first_of_equal_axes() -> None:
    assert make(SHAPES["3d"]).axis == 0
    assert make(SIDEWAYS).axis == 2


def test_a_gap_that_hides_everything_is_refused() -> None:
    assert make(SHAPES["anisotropic"], gap=5)
    with pytest.raises(NnsslError, match="at most 5"):
        make(SHAPES["anisotropic"], gap=6)


@pytest.mark.parametrize("shape", [SHAPES["2d"], SHAPES["anisotropic"], SIDEWAYS])
def test_preview_shows_slices(shape: Shape) -> None:
    method = make(shape, gap=2).eval()
    crops = make_crops(method)
    crops.inside[0, method.axis] = torch.tensor([0, 1])
    crops.inside[1, method.axis, 1] = size = method.read_size()[method.axis]
    pictures = method.preview(method.views(crops, seeded()))
    last, wanted, output = pictures.values()
    slices = crops.images.movedim(method.axis + 2, 2)
    assert torch.equal(last[1], slices[1, :, size - 3])
    assert torch.equal(wanted[1], slices[1, :, size - 1])
    assert output.shape == wanted.shape == last.shape
    assert wanted[0].isnan().all(), "a crop with too few slices has nothing to predict"
    assert list(pictures) == ["last slice shown", "2 slices further", "network output"]


def test_health_speaks_of_flat_images() -> None:
    method = make(SHAPES["2d"], gap=5)
    assert method.health({"val_used": 0.9}) == []
    assert "only 20% of the crops hold gap + 1 = 6 slices" in method.health({"val_used": 0.2})[0]


def test_decoder_is_exported_too() -> None:
    assert make(SHAPES["2d"]).exported().decoder is not None


def test_a_2d_stack_read_for_others_is_cut_for_it() -> None:
    """Beside a method that reads single slices, each part gets what it wants."""
    method = make_method("next_slice+masked_region", SHAPES["2d"], next_slice={"gap": 2})
    assert method.read_size() == (3, 24, 16)
    losses = method(method.views(make_crops(method), seeded()))
    assert torch.isfinite(losses.total)


def test_batches_without_a_usable_crop_are_worth_nothing() -> None:
    method = make(SHAPES["2d"])
    crops = make_crops(method)
    flat = CropBatch(crops.images, crops.inside.clone(), crops.case)
    flat.inside[:, 0, 1] = 1
    losses = method(method.views(flat, seeded()))
    losses.total.backward()
    assert losses.total.item() == 0
    assert losses.terms["used"].item() == 0
