"""`nnssl_classify` from the command line: tables, npz files of every kind, new cases, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.evaluate.classify.npz import read_npz
from tests.conftest import run_command


def npz(path: Path, shape: tuple[int, ...] = (28, 28), **changes: object) -> Path:
    """Bright squares or cubes in half of the images."""
    rng = np.random.default_rng(0)
    content: dict = {}
    for split, count in (("train", 40), ("val", 10), ("test", 20)):
        labels = rng.integers(0, 2, (count, 1))
        images = rng.integers(0, 80, (count, *shape)).astype(np.uint8)
        box = tuple(slice(n // 4, 3 * n // 4) for n in shape if n > 4)
        for i in np.flatnonzero(labels[:, 0]):
            images[i][box] += 120
        content |= {f"{split}_images": images, f"{split}_labels": labels}
    content |= changes
    np.savez(path, **{k: v for k, v in content.items() if v is not None})
    return path


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def classify(*arguments: str) -> int:
    return run_command("classify", "-device", "cpu", *arguments)


def cases(pretraining: Path) -> list[str]:
    folder = pretraining / "raw" / "Dataset901_Target" / "labelsTr"
    return sorted(p.name.removesuffix(".nii.gz") for p in folder.iterdir())


def test_a_medmnist_file_and_new_images_of_that_kind(pretraining: Path, tmp_path: Path) -> None:
    file, out = npz(tmp_path / "x.npz"), tmp_path / "out"
    assert classify("-d", "901", "-c", "2d", "--npz", str(file), "-m", "linear", "-o", str(out)) == 0
    assert json.loads((out / "scores.json").read_text())["scores"]["auc"] > 0.9
    assert {p.name for p in out.iterdir()} == {
        "predictions.csv",
        "scores.json",
        "report.md",
        "confusion.png",
        "model.pth",
    }
    torch.load(out / "model.pth", weights_only=True)  # which any PyTorch can
    found = rows_of(out / "predictions.csv")
    assert len(found) == 20

    images = np.load(file)["test_images"]
    np.savez(tmp_path / "new.npz", images=images)
    assert (
        classify("--predict", str(out / "model.pth"), "-i", str(tmp_path / "new.npz"), "-o", str(tmp_path / "p")) == 0
    )
    said = rows_of(tmp_path / "p" / "predictions.csv")
    assert [r["p_1"] for r in said.values()] == [r["p_1"] for r in found.values()]
    assert list(said)[:2] == ["image_0", "image_1"]


def test_smaller_draws_are_part_of_larger_ones(pretraining: Path, tmp_path: Path) -> None:
    """Trained on two images, one of each class; and the curve of a fine-tuning with its validation images."""
    file = npz(tmp_path / "x.npz")
    base = ("-d", "901", "-c", "2d", "--npz", str(file), "-m", "finetune", "--steps", "4")
    assert classify(*base, "--train-images", "2", "--freeze-epochs", "1", "-o", str(tmp_path / "few")) == 0
    content = torch.load(tmp_path / "few" / "model.pth", weights_only=True)
    assert content["origin"]["trained_images"] == 2
    with (tmp_path / "few" / "curve.csv").open(newline="") as curve:
        assert [int(r["step"]) for r in csv.DictReader(curve)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("shape,configuration", [((24, 24, 24), "3d_fullres"), ((12, 24, 24), "2d")])
def test_volumes(pretraining: Path, tmp_path: Path, shape: tuple[int, ...], configuration: str) -> None:
    file, out = npz(tmp_path / "x.npz", shape), tmp_path / "out"
    assert classify("-d", "901", "-c", configuration, "--npz", str(file), "-m", "knn", "-o", str(out)) == 0
    assert json.loads((out / "scores.json").read_text())["scores"]["auc"] > 0.9


def test_colours_need_plans_for_them(pretraining: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    file = npz(tmp_path / "x.npz", (28, 28, 3))
    assert read_npz(file)["train"][0].shape == (40, 3, 1, 28, 28)
    assert classify("-d", "901", "-c", "2d", "--npz", str(file), "-o", str(tmp_path / "o")) == 2
    assert "3 channel(s), the plans are for 1" in capfd.readouterr().err


def test_the_encoder_file_says_how_to_read_images(pretraining: Path, tmp_path: Path) -> None:
    """Without -d: network, spacing and normalisation are those of the file; the answers are the same."""
    quick = ("-device", "cpu", "--epochs", "1", "--iterations", "2", "--set", "val_iterations=1", "--batch-size", "2")
    assert run_command("pretrain", "902", "2d", "-m", "masked_region", *quick) == 0
    run = tmp_path / "results" / "Dataset902_Pool" / "nnsslTrainer_MaskedRegion__nnsslPlans__2d" / "fold_all"
    base = ("--npz", str(npz(tmp_path / "x.npz")), "-m", "linear", "--init", str(run / "encoder.pth"))
    assert classify(*base, "-d", "902", "-c", "2d", "-o", str(tmp_path / "a")) == 0
    assert classify(*base, "-o", str(tmp_path / "b")) == 0
    assert (tmp_path / "a" / "predictions.csv").read_bytes() == (tmp_path / "b" / "predictions.csv").read_bytes()


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_table_and_new_cases(
    pretraining: Path, tmp_path: Path, configuration: str, capfd: pytest.CaptureFixture
) -> None:
    """Raw images, the preprocessed dataset and the training agree; a broken image is named and stops no other."""
    names, table, out = cases(pretraining), tmp_path / "t.csv", tmp_path / "out"
    table.write_text("case,y\n" + "".join(f"{n},{3.5 * i}\n" for i, n in enumerate(names)))
    asked = ("--labels", str(table), "--target", "y:regression", "-m", "linear", "--folds", "3")
    assert classify("-d", "901", "-c", configuration, *asked, "-o", str(out)) == 0
    images = tmp_path / "new"
    images.mkdir()
    for name in names[:3]:
        shutil.copy(pretraining / "raw" / "Dataset901_Target" / "imagesTr" / f"{name}_0000.nii.gz", images)
    (images / "torn_0000.nii.gz").write_bytes(b"not an image")
    predict = ("--predict", str(out / "model.pth"))
    assert classify(*predict, "-i", str(images), "-o", str(tmp_path / "raw")) == 0
    assert "torn: " in capfd.readouterr().out
    assert list(json.loads((tmp_path / "raw" / "failed.json").read_text())) == ["torn"]
    assert classify(*predict, "-i", "901", "-o", str(tmp_path / "pre")) == 0
    raw, pre = rows_of(tmp_path / "raw" / "predictions.csv"), rows_of(tmp_path / "pre" / "predictions.csv")
    assert list(raw) == names[:3]
    assert list(pre) == names
    for name in raw:
        assert float(raw[name]["prediction"]) == pytest.approx(float(pre[name]["prediction"]), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"test_images": None}, "lacks train_images"),
        ({"train_labels": np.zeros((40, 2))}, "has 2 columns"),
        ({"train_labels": np.zeros((50, 1))}, "40 train_images and 50 train_labels"),
        ({"train_images": np.zeros((40, 28))}, r"are known"),
        ({"train_images": np.zeros((0, 28, 28)), "train_labels": np.zeros((0, 1))}, "is empty"),
        ({"train_images": np.array([{}] * 40)}, "holds Python objects"),
        ({"train_labels": np.full((40, 1), np.nan)}, "NaN"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, changes: dict, text: str) -> None:
    with pytest.raises(NnsslError, match=text):
        read_npz(npz(tmp_path / "x.npz", **changes))


def test_what_is_no_npz(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK not really")
    np.save(tmp_path / "y.npy", np.zeros(3))
    for name in ("x.npz", "y.npy"):
        with pytest.raises(NnsslError, match="is no npz file"):
            read_npz(tmp_path / name)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_is_no_folder_to_write(tmp_path: Path, capfd: pytest.CaptureFixture, place: str) -> None:
    (tmp_path / "file").write_text("x")
    for task in (("--npz", "x.npz"), ("--predict", "m.pth", "-i", "901")):
        assert classify(*task, "-o", str(tmp_path / place)) == 2
        assert "file is a file, and no folder" in capfd.readouterr().err


def test_a_seed_is_one_that_scikit_learn_takes(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert classify("--npz", "x.npz", "-m", "mlp", "--seed", str(2**32), "-o", str(tmp_path / "o")) == 2
    assert "is not a seed from 0 to 4294967295" in capfd.readouterr().err
    assert classify("--npz", "x.npz", "-m", "mlp", "--seed", str(2**32 - 1), "-o", str(tmp_path / "o")) == 2
    assert "an untrained encoder needs plans" in capfd.readouterr().err, "the seed is one"


def test_bad_input(pretraining: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    def says(*arguments: str) -> str:
        assert classify("-o", str(tmp_path / "o"), *arguments) == 2
        return capfd.readouterr().err

    file = str(npz(tmp_path / "x.npz"))
    assert "give --labels" in says("-d", "901", "-c", "2d")
    assert "needs --target" in says("-d", "901", "-c", "2d", "--labels", "x.csv")
    assert "--labels needs -d ID" in says("--labels", "x.csv", "--target", "y")
    assert "belong together" in says("-d", "901", "--npz", file)
    assert "goes with --npz" in says("-d", "901", "-c", "2d", "--labels", "x", "--target", "y", "--train-images", "3")
    assert "not both" in says("-d", "901", "-c", "2d", "--npz", file, "--steps", "3", "--epochs", "1")
    assert "does not exist" in says("-d", "901", "-c", "2d", "--npz", str(tmp_path / "none.npz"))
    assert "holds 2D images, 3d_fullres is 3D" in says("-d", "901", "-c", "3d_fullres", "--npz", file)
    assert "there are 40" in says("-d", "901", "-c", "2d", "--npz", file, "--train-images", "100")
    assert "shows class" in says("-d", "901", "-c", "2d", "--npz", file, "--train-images", "1")
    assert "untrained encoder needs plans" in says("--npz", file)
    assert "There are: " in says("-d", "901", "-c", "4d", "--npz", file)
    table = tmp_path / "t.csv"
    table.write_text("case,y\n" + "".join(f"{n},{i % 2}\n" for i, n in enumerate(cases(pretraining))))
    assert "patients are too few for 5 folds" in says("-d", "901", "-c", "2d", "--labels", str(table), "--target", "y")
    assert "--predict needs -i" in says("--predict", "m.pth")
    assert "goes with --predict" in says("-i", "901")
    assert "does not exist" in says("--predict", str(tmp_path / "m.pth"), "-i", "901")
    assert not (tmp_path / "o").exists()
    assert classify("-d", "901", "-c", "2d", "--npz", file, "-m", "knn", "-o", str(tmp_path / "k")) == 0
    predict = ("--predict", str(tmp_path / "k" / "model.pth"), "-i")
    (tmp_path / "empty").mkdir()
    assert "no images like CASE_0000.nii.gz" in says(*predict, str(tmp_path / "empty"))
    assert "no folder, no npz file" in says(*predict, "nowhere")
    assert "does not exist" in says(*predict, str(tmp_path / "none.npz"))
    assert not (tmp_path / "o").exists()
