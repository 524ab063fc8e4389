"""Classification: learns what is there, says nothing of noise, keeps patients together, and refuses what it cannot use."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.evaluate.classify import frozen
from nnssl.evaluate.classify.augment import augment
from nnssl.evaluate.classify.curve import Point, write_curve
from nnssl.evaluate.classify.data import Data, known_plans
from nnssl.evaluate.classify.images import common_size, slices_of
from nnssl.evaluate.classify.images import fit as fit_size
from nnssl.evaluate.classify.model import Model, read_model, write_model
from nnssl.evaluate.classify.recipe import Recipe, make_recipe
from nnssl.evaluate.classify.run import cross_validate, fit
from nnssl.evaluate.classify.scores import all_scores, write_results
from nnssl.evaluate.classify.settings import ClassifySettings
from nnssl.evaluate.features import Extractor, make_extractor
from nnssl.views import Geometry

CPU = torch.device("cpu")
WHERE = ("Dataset901_Target", "nnsslPlans")


def blobs(count: int, seed: int = 0, noise: bool = False) -> Data:
    """Images of a bright or dark square on noise; two images per patient."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, 1, 1, 24, 24)).astype(np.float32)
    kind = np.repeat(rng.integers(0, 2, count // 2), 2)
    if not noise:
        images[kind == 1, :, :, 6:16, 6:16] += 2
        images[kind == 0, :, :, 6:16, 6:16] -= 2
    names = tuple(f"i{i}" for i in range(count))
    groups = tuple(f"p{i // 2}" for i in range(count))
    return Data(names, torch.from_numpy(images), np.where(kind == 1, "bright", "dark"), groups, "classes")


def settings(method: str, **changes: object) -> ClassifySettings:
    return ClassifySettings(**{"method": method, "steps": 40, "lr": 1e-3, "batch_size": 8, **changes})  # type: ignore[arg-type]


def extractor(**options: object) -> Extractor:
    return make_extractor("random", *WHERE, "2d", **options)  # type: ignore[arg-type]


def recipe() -> Recipe:
    """For images of 24 x 24."""
    plans, described = (
        known_plans(*WHERE, "2d"),
        {"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz", "labels": {}},
    )
    return make_recipe(plans, "2d", described, [(1, 24, 24)], (4, 4), body=False)


def learn(train: Data, method: str, validation: Data | None = None, **changes: object) -> Model:
    return fit(train, validation, extractor(), recipe(), settings(method, **changes))[0]


@pytest.mark.parametrize("method", ["finetune", "linear", "mlp", "knn"])
def test_learns_what_is_there_and_keeps_it(pretraining: Path, tmp_path: Path, method: str) -> None:
    """Also what a file gives back is the same classifier, bit for bit."""
    test = blobs(30, seed=1)
    model = learn(blobs(40), method)
    answers = model.answers(test.images, CPU)
    assert all_scores(test.values, answers, "classes", np.array(["bright", "dark"]))["accuracy"] > 0.85
    write_model(model, tmp_path / "m.pth")
    again = read_model(tmp_path / "m.pth")
    assert np.array_equal(again.answers(test.images, CPU), answers)
    assert again.recipe == model.recipe
    assert list(again.known) == ["bright", "dark"]


def test_a_file_that_is_no_classifier(pretraining: Path, tmp_path: Path) -> None:
    torch.save({"x": 1}, tmp_path / "x.pth")
    with pytest.raises(NnsslError, match="no classifier"):
        read_model(tmp_path / "x.pth")
    write_model(learn(blobs(20), "knn"), tmp_path / "m.pth")
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    for change, text in (
        ({"nnssl_classifier": 99}, "update nnssl"),
        ({"known": None}, "damaged"),
        ({"network": {}}, "damaged"),
        ({"levels": [9]}, "damaged"),
        ({"levels": [-(10**30)]}, "damaged"),
    ):
        torch.save({**content, **change}, tmp_path / "y.pth")
        with pytest.raises(NnsslError, match=text):
            read_model(tmp_path / "y.pth")
    content["recipe"]["plans"]["configurations"]["2d"]["architecture"]["network_class_name"] = "os.system"
    torch.save(content, tmp_path / "y.pth")
    with pytest.raises(NnsslError, match="refused"):
        read_model(tmp_path / "y.pth")


def test_neighbours_with_one_large_patient(pretraining: Path) -> None:
    """Inner folds are uneven: more neighbours than a fold has rows must not be tried."""
    rng = np.random.default_rng(0)
    values = np.array(["a", "b"] * 30)
    groups = ["large"] * 44 + [f"p{i}" for i in range(16)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays = frozen.fit("knn", "classes", rng.normal(size=(60, 4)), values, groups, 0)
    assert arrays["neighbours"] < 16


def test_undefined_scores_are_null(tmp_path: Path) -> None:
    known = np.array(["a", "b"])
    values = np.array(["a", "a", "a", "a"])
    answers = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    write_results(tmp_path, list("wxyz"), list("wxyz"), values, answers, "classes", known, {})
    text = (tmp_path / "scores.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["scores"]["auc"] is None
    assert json.loads(text)["scores"]["accuracy"] == 0.75


def test_noise_is_chance(pretraining: Path) -> None:
    data = blobs(80, noise=True)
    answers = cross_validate(data, extractor, recipe(), settings("linear"), 5)
    assert 0.3 < all_scores(data.values, answers, "classes", data.known)["balanced_accuracy"] < 0.7


@pytest.mark.parametrize("method", ["finetune", "linear", "knn"])
def test_a_quantity(pretraining: Path, tmp_path: Path, method: str) -> None:
    data = blobs(60)
    strength = np.linspace(-3, 3, 60).astype(np.float32)
    images = torch.randn(60, 1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    images[..., 6:16, 6:16] += torch.from_numpy(strength)[:, None, None, None, None]
    mixed = np.random.default_rng(0).permutation(60)
    quantity = Data(data.names, images, strength * 10 + 5, data.groups, "regression").part(mixed)
    test = quantity.part(range(40, 60))
    model = learn(quantity.part(range(40)), method, augment=False)
    answers = model.answers(test.images, CPU)
    assert all_scores(test.values, answers, "regression", quantity.known)["r2"] > 0.5
    write_model(model, tmp_path / "m.pth")
    assert np.array_equal(read_model(tmp_path / "m.pth").answers(test.images, CPU), answers)


def test_schedule() -> None:
    """Ten epochs of 20 images in batches of 8 are 30 steps."""
    assert settings("finetune", steps=None, epochs=10, freeze_epochs=2).schedule(20) == (30, 6)
    assert settings("finetune", steps=None, init="x.pth").schedule(20) == (700, 100)
    assert settings("finetune", steps=70, init="x.pth").schedule(20) == (70, 10)
    assert settings("finetune", steps=5, freeze_epochs=50).schedule(20) == (5, 5)
    assert settings("finetune", freeze_epochs=0, init="x.pth").schedule(20) == (40, 0)


def test_an_untrained_encoder_learns_from_the_first_step() -> None:
    assert settings("finetune", steps=70, init="random").schedule(20) == (70, 0)
    assert settings("finetune", steps=70, init="random", freeze_epochs=1).schedule(20) == (70, 3)  # as asked for


def test_frozen_at_first_then_everything_learns(pretraining: Path) -> None:
    kept, moved = extractor(), extractor()
    before = [p.clone() for p in kept.encoder.parameters()]
    fit(blobs(20), None, kept, recipe(), settings("finetune", steps=9, freeze_epochs=3))
    fit(blobs(20), None, moved, recipe(), settings("finetune", steps=9, freeze_epochs=2))
    assert all(torch.equal(a, b) for a, b in zip(before, kept.encoder.parameters()))
    assert sum(not torch.equal(a, b) for a, b in zip(before, moved.encoder.parameters())) > 0.8 * len(before)


def test_best_or_last_weights(pretraining: Path) -> None:
    """A rate that wrecks the network at the end: the best weights are those of the way, the last ones are not."""
    train, validation = blobs(20), blobs(20, seed=2)
    options = {"steps": 12, "evaluate_every": 1, "freeze_epochs": 0}
    _, points = fit(train, validation, extractor(), recipe(), settings("finetune", **options))
    assert [p.step for p in points] == list(range(13))
    best = max(points, key=lambda p: (p.score, -p.loss))
    for select, wanted in (("best", best), ("last", points[-1])):
        model = learn(train, "finetune", validation, select=select, **options)
        said = model.known[model.answers(validation.images, CPU).argmax(1)]
        recalls = [np.mean(said[validation.values == c] == c) for c in model.known]
        assert np.mean(recalls) == pytest.approx(wanted.score)


def test_curve_grows_and_a_missing_class_is_no_warning(pretraining: Path, tmp_path: Path) -> None:
    """A display reads the file on the way; validation images of one class are scored by that class, as scikit-learn does."""
    train, validation = blobs(20), blobs(20, seed=2)
    bright = np.flatnonzero(validation.values == "bright")
    names, groups = (tuple(column[i] for i in bright) for column in (validation.names, validation.groups))
    one = Data(names, validation.images[bright], validation.values[bright], groups, "classes")
    seen: list[list[str]] = []

    def follow(points: Sequence[Point]) -> None:
        write_curve(points, tmp_path / "curve.csv")
        seen.append((tmp_path / "curve.csv").read_text().splitlines())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = settings("finetune", steps=6, evaluate_every=2)
        model, points = fit(train, one, extractor(), recipe(), options, follow=follow)
    assert [int(lines[-1].split(",")[0]) for lines in seen] == [0, 2, 4, 6]
    said = model.known[model.answers(one.images, CPU).argmax(1)]
    assert points[-1].score == pytest.approx(np.mean(said == "bright"))


def test_augmentation(pretraining: Path) -> None:
    """Slices of a case change alike and stay in order; nothing changes when nothing is asked for."""
    x = torch.rand(4, 3, 1, 24, 24) + torch.arange(3.0)[None, :, None, None, None] * 10
    geometry = Geometry((3, 24, 24), (1000.0, 1.0, 1.0))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(augment(x, geometry, generator, light=False, flips=False), x)
    flipped = augment(x, geometry, generator, light=False, flips=True)
    assert torch.equal((flipped / 10).floor(), (x / 10).floor())
    assert not torch.equal(flipped, x)
    lit = augment(x, geometry, generator, light=True, flips=False)
    assert lit.shape == x.shape
    assert (lit.amax((2, 3, 4)).diff(dim=1) > 0).all()


def test_repeats_by_seed(pretraining: Path) -> None:
    found = [learn(blobs(20), "finetune", steps=6, seed=s).answers(blobs(10).images, CPU) for s in (1, 1, 2)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_sizes() -> None:
    assert common_size([(20, 30, 40)] * 3, (4, 8, 8)) == (20, 32, 40)
    assert np.prod(common_size([(400, 400, 400)], (16, 16, 16))) <= 96**3
    image = np.arange(2 * 5 * 4, dtype=np.float32).reshape(2, 5, 4)
    assert fit_size(image, (3, 6)).shape == (2, 3, 6)
    assert np.array_equal(fit_size(image, (3, 4)), image[:, 1:4])
    assert np.array_equal(fit_size(image, (3, 4), (0.0, 2.0)), image[:, :3])
    assert slices_of(np.zeros((1, 10, 4, 4)), 3).shape == (3, 1, 4, 4)


def test_scores_of_known_answers() -> None:
    known = np.array(["a", "b", "c"])
    right = np.eye(3)[[0, 1, 2, 0]]
    found = all_scores(np.array(["a", "b", "c", "a"]), right, "classes", known)
    assert all(v == pytest.approx(1) for v in found.values())
    wrong = all_scores(np.array(["b", "c", "a", "b"]), right, "classes", known)
    assert wrong["accuracy"] == 0
