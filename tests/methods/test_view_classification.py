"""What holds for rotation and flip alike."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nnssl.methods import CropBatch
from nnssl.methods.view_classification import ViewClassification, balanced_labels
from nnssl.views import inside_box
from tests.methods.cases import SHAPES, make_crops, make_method, seeded

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("rotation", "2d", {}),
    ("rotation", "anisotropic", {}),
    ("rotation", "3d", {"planes": "all"}),
    ("flip", "2d", {}),
    ("flip", "anisotropic", {}),
    ("flip", "3d", {"axes": [0, 1, 2]}),
]


def make(name: str, shape: str, options: dict[str, Any]) -> ViewClassification:
    method = make_method(name, SHAPES[shape], **options)
    assert isinstance(method, ViewClassification)
    return method


def flat_crops(method: ViewClassification, batch: int = 8) -> CropBatch:
    """Images without content (1 everywhere) in crops that reach beyond them, by another margin on every side."""
    size = method.read_size()
    margins = [[torch.randint(0, n // 2, (2,), generator=seeded(7 * b + n)) for n in size] for b in range(batch)]
    inside = torch.tensor([[[int(m[0]), n - int(m[1])] for m, n in zip(row, size)] for row in margins])
    images = inside_box(inside, size).float().expand(batch, method.channels, *size)
    return CropBatch(images.clone(), inside, torch.arange(batch))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("name", "shape", "options"), CASES)
def test_padding_gives_nothing_away(name: str, shape: str, options: dict[str, Any], training: bool) -> None:
    """Images without content look the same in every class, so that no network can do better than guess."""
    method = make(name, shape, {**options, "p_scaling": 1.0}).train(training)
    crops = flat_crops(method)
    views = method.views(crops, seeded())
    shown = views["image"]
    assert (shown != 0).flatten(1).any(1).sum() >= 4, "the crops still show something"
    for label in range(method.classes):
        assert torch.allclose(method.change(shown, [label] * 8), shown, atol=1e-5)
        assert torch.equal(method.change(views["visible"], [label] * 8), views["visible"])
    told = [method.change(crops.images, [label] * 8) for label in range(1, method.classes)]
    assert not any(torch.equal(t, crops.images) for t in told), "without the mask, each class would be recognised"


@pytest.mark.parametrize(("name", "shape", "options"), CASES)
def test_the_image_is_the_crop_changed_as_the_label_says(name: str, shape: str, options: dict[str, Any]) -> None:
    method = make(name, shape, options).eval()
    crops = make_crops(method, batch=12)
    views, again = (method.views(crops, seeded(3)) for _ in range(2))
    assert all(torch.equal(views[k], again[k]) for k in views)
    labels = views["label"].tolist()
    assert len(set(labels)) == min(method.classes, 12)
    whole = inside_box(crops.inside, method.read_size())
    upright = method.change(views["image"], labels, back=True)
    assert torch.equal(upright, crops.images * method.unchanged(whole))
    assert torch.equal(upright[0], crops.images[0]), "an image that fills its crop is shown whole"
    for b, label in enumerate(labels):
        assert torch.equal(views["image"][b], upright[b]) == (label == 0), "class 0 alone is the crop as it is"


@pytest.mark.parametrize("name", ["rotation", "flip"])
def test_training_scales_and_nothing_else(name: str) -> None:
    method = make(name, "2d", {"p_scaling": 0.0}).train()
    crops = make_crops(method)
    views = method.views(crops, seeded())
    upright = method.change(views["image"], views["label"].tolist(), back=True)
    assert torch.equal(upright[:3], crops.images[:3])
    scaled = make(name, "2d", {"p_scaling": 1.0}).train().views(crops, seeded())
    assert not torch.equal(method.change(scaled["image"], scaled["label"].tolist(), back=True), upright)


@pytest.mark.parametrize(("name", "shape", "options"), CASES)
def test_crops_that_show_nothing_do_not_count(name: str, shape: str, options: dict[str, Any]) -> None:
    method = make(name, shape, options).eval()
    crops = make_crops(method)
    crops.inside[1, -1, 1] = crops.inside[1, -1, 1] // 2  # all of the image lies on one side of the centre
    views = method.views(crops, seeded())
    assert views["visible"].flatten(1).any(1).tolist() == [True, False, True, True]
    losses = method(views)
    logits = method.classifier(method.backbone(views["image"])).tolist()
    entropy, correct = [], []
    for b in (0, 2, 3):
        label = int(views["label"][b])
        entropy.append(math.log(sum(math.exp(v) for v in logits[b])) - logits[b][label])
        correct.append(float(max(logits[b]) == logits[b][label]))
    assert losses.total.item() == pytest.approx(sum(entropy) / 3, rel=1e-4)
    assert losses.terms["accuracy"].item() == pytest.approx(sum(correct) / 3)


def test_labels_are_balanced_within_a_batch_and_over_batches() -> None:
    generator = seeded()
    drawn = torch.stack([balanced_labels(6, 4, generator) for _ in range(2000)])
    counts = torch.stack([(drawn == label).sum(1) for label in range(4)])
    assert counts.min() == 1
    assert counts.max() == 2
    share = torch.stack([(drawn == label).float().mean(0) for label in range(4)])
    assert (share - 0.25).abs().max() < 0.04, "every place of the batch gets every class"


@pytest.mark.parametrize("name", ["rotation", "flip"])
def test_only_the_encoder_is_trained_and_exported(name: str) -> None:
    method = make(name, "2d", {})
    assert method.exported().decoder is None
    assert not any("decoder" in n for n, _ in method.named_parameters())


@pytest.mark.parametrize(("name", "shape", "options"), CASES)
def test_preview_turns_back_what_was_recognised(name: str, shape: str, options: dict[str, Any]) -> None:
    method = make(name, shape, options).eval()
    views = method.views(make_crops(method), seeded())
    torch.nn.init.zeros_(method.classifier.weight)
    with torch.no_grad():  # a network that always gives the same answer
        method.classifier.bias.copy_(torch.arange(method.classes) == views["label"][0])
    crop, _, back = method.preview(views).values()
    right = [torch.equal(a, b) for a, b in zip(crop, back)]
    assert right == (views["label"] == views["label"][0]).tolist()
    assert not all(right)


def test_health_speaks_of_a_solved_task_and_of_guessing() -> None:
    method = make("rotation", "2d", {})
    assert not method.health({"epoch": 50, "val_accuracy": 0.6})
    assert not method.health({"epoch": 0, "val_accuracy": 0.25})
    assert "guessing" in method.health({"epoch": 50, "val_accuracy": 0.25})[0]
    assert "solved" in method.health({"epoch": 50, "val_accuracy": 0.99})[0]


@pytest.mark.parametrize("name", ["rotation", "flip"])
def test_learns_which_way_is_up_from_images_it_has_not_seen(name: str) -> None:
    """Images that get brighter towards a corner, more along one edge than along the other."""
    method = make(name, "2d", {}).train()
    size = method.read_size()
    ramp = torch.linspace(-1, 1, size[0])[:, None] + 0.5 * torch.linspace(-1, 1, size[1])
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    inside = torch.tensor([[[0, n] for n in size]] * 8)
    accuracies = []
    for step in range(50):
        images = ramp + 0.3 * torch.randn(8, 1, *size, generator=seeded(step))
        losses = method(method.views(CropBatch(images, inside, torch.arange(8)), seeded(step)))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        accuracies.append(losses.terms["accuracy"].item())
    assert sum(accuracies[-10:]) / 10 > 0.85
