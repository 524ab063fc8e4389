"""Classification: learns what is there, says nothing of noise, keeps patients together, and refuses what it cannot use."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.evaluate.classify.images import common_size, fit, read_npz, slices_of
from nnssl.evaluate.classify.run import Data, cross_validate, run_classification
from nnssl.evaluate.classify.scores import all_scores
from nnssl.evaluate.classify.settings import ClassifySettings
from nnssl.evaluate.features import make_extractor
from tests.conftest import run_command

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
    return ClassifySettings(method=method, steps=40, lr=1e-3, batch_size=8, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["finetune", "linear", "mlp", "knn"])
def test_learns_what_is_there(pretraining: Path, method: str) -> None:
    extractor = make_extractor("random", *WHERE, "2d")
    answers, _ = run_classification(blobs(40), blobs(30, seed=1), extractor, settings(method))
    assert all_scores(blobs(30, seed=1).values, answers, "classes", np.array(["bright", "dark"]))["accuracy"] > 0.85


def test_noise_is_chance(pretraining: Path) -> None:
    data = blobs(80, noise=True)
    answers = cross_validate(data, lambda: make_extractor("random", *WHERE, "2d"), settings("linear"), 5)
    assert 0.3 < all_scores(data.values, answers, "classes", data.known)["balanced_accuracy"] < 0.7


def test_a_quantity(pretraining: Path) -> None:
    data = blobs(60)
    strength = np.linspace(-3, 3, 60).astype(np.float32)
    images = torch.randn(60, 1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    images[..., 6:16, 6:16] += torch.from_numpy(strength)[:, None, None, None, None]
    mixed = np.random.default_rng(0).permutation(60)
    quantity = Data(data.names, images, strength * 10 + 5, data.groups, "regression").part(mixed)
    answers, _ = run_classification(
        quantity.part(range(40)),
        quantity.part(range(40, 60)),
        make_extractor("random", *WHERE, "2d"),
        settings("linear"),
    )
    assert all_scores(quantity.values[40:], answers, "regression", quantity.known)["r2"] > 0.5


def test_frozen_at_first_then_everything_learns(pretraining: Path) -> None:
    kept, moved = (make_extractor("random", *WHERE, "2d") for _ in range(2))
    before = [p.clone() for p in kept.encoder.parameters()]
    run_classification(blobs(20), blobs(10), kept, settings("finetune", freeze_share=0.99))
    run_classification(blobs(20), blobs(10), moved, settings("finetune", freeze_share=0.5))
    assert sum(not torch.equal(a, b) for a, b in zip(before, moved.encoder.parameters())) > 0.8 * len(before)
    # one step of forty is left to the whole network
    change = max(float((a - b).abs().max()) for a, b in zip(before, kept.encoder.parameters()))
    assert change < 1e-3


def test_repeats_by_seed(pretraining: Path) -> None:
    found = [
        run_classification(blobs(20), blobs(10), make_extractor("random", *WHERE, "2d"), settings("finetune", seed=s))[
            0
        ]
        for s in (1, 1, 2)
    ]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_sizes() -> None:
    assert common_size([(20, 30, 40)] * 3, (4, 8, 8)) == (20, 32, 40)
    assert np.prod(common_size([(400, 400, 400)], (16, 16, 16))) <= 96**3
    image = np.arange(2 * 5 * 4, dtype=np.float32).reshape(2, 5, 4)
    assert fit(image, (3, 6)).shape == (2, 3, 6)
    assert np.array_equal(fit(image, (3, 4)), image[:, 1:4])
    assert slices_of(np.zeros((1, 10, 4, 4)), 3).shape == (3, 1, 4, 4)


def test_scores_of_known_answers() -> None:
    known = np.array(["a", "b", "c"])
    right = np.eye(3)[[0, 1, 2, 0]]
    found = all_scores(np.array(["a", "b", "c", "a"]), right, "classes", known)
    assert all(v == pytest.approx(1) for v in found.values())
    wrong = all_scores(np.array(["b", "c", "a", "b"]), right, "classes", known)
    assert wrong["accuracy"] == 0


def npz(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    content: dict = {}
    for split, count in (("train", 60), ("val", 10), ("test", 30)):
        labels = rng.integers(0, 2, (count, 1))
        images = rng.integers(0, 80, (count, 28, 28)).astype(np.uint8)
        images[labels[:, 0] == 1, 8:20, 8:20] += 120
        content |= {f"{split}_images": images, f"{split}_labels": labels}
    content |= changes
    np.savez(path, **{k: v for k, v in content.items() if v is not None})
    return path


@pytest.mark.slow
def test_a_medmnist_file_from_the_command_line(pretraining: Path, tmp_path: Path) -> None:
    file = npz(tmp_path / "x.npz")
    base = ("-d", "901", "-c", "2d", "--npz", str(file), "-m", "linear", "-device", "cpu")
    assert run_command("classify", *base, "-o", str(tmp_path / "out")) == 0
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["scores"]["auc"] > 0.9
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert len(rows) == 30
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "predictions.csv",
        "scores.json",
        "report.md",
        "confusion.png",
    }
    assert run_command("classify", *base, "--train-images", "20", "-o", str(tmp_path / "few")) == 0


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"test_images": None}, "lacks train_images"),
        ({"train_labels": np.zeros((60, 2))}, "has 2 columns"),
        ({"train_labels": np.zeros((50, 1))}, "60 train_images and 50 train_labels"),
        ({"train_images": np.zeros((60, 28))}, r"are known"),
        ({"train_images": np.array([{}] * 60)}, "without pickle"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, changes: dict, text: str) -> None:
    with pytest.raises(NnsslError, match=text):
        read_npz(npz(tmp_path / "x.npz", **changes))


def test_bad_input(pretraining: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    def says(*arguments: str) -> str:
        assert run_command("classify", "-d", "901", "-o", str(tmp_path / "o"), "-device", "cpu", *arguments) == 2
        return capfd.readouterr().err

    assert "give --labels" in says("-c", "2d")
    assert "needs --target" in says("-c", "2d", "--labels", "x.csv")
    assert "does not exist" in says("-c", "2d", "--npz", str(tmp_path / "none.npz"))
    assert "2D images, 3d_fullres is 3D" in says("-c", "3d_fullres", "--npz", str(npz(tmp_path / "x.npz")))
    assert "there are 60" in says("-c", "2d", "--npz", str(tmp_path / "x.npz"), "--train-images", "100")
    table = tmp_path / "t.csv"
    names = sorted(
        p.name.removesuffix(".nii.gz") for p in (pretraining / "raw" / "Dataset901_Target" / "labelsTr").iterdir()
    )
    table.write_text("case,y\n" + "".join(f"{n},{i % 2}\n" for i, n in enumerate(names)))
    assert "patients are too few for 5 folds" in says("-c", "2d", "--labels", str(table), "--target", "y")
    assert not (tmp_path / "o").exists()
