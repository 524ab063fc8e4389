"""Pictures of features: what is apart stays apart, what has no units shows none, and too few rows are refused."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from nnssl.cli.probe import _picture
from nnssl.errors import NnsslError
from nnssl.evaluate.features import case_reader
from nnssl.evaluate.labels import TargetColumn
from nnssl.evaluate.projection import Projection, draw, project
from tests.conftest import run_command

RNG = np.random.default_rng(0)
KIND = np.repeat(["a", "b", "c"], 20)
FEATURES = RNG.normal(size=(60, 80)) + 4 * np.eye(3)[np.repeat([0, 1, 2], 20)] @ RNG.normal(size=(3, 80))


@pytest.mark.parametrize("how", ["pca", "tsne"])
def test_clusters_stay_apart(how: Projection) -> None:
    places = project(FEATURES, how)
    assert places.points.shape == (60, 2)
    shown = KNeighborsClassifier(5).fit(places.points[::2], KIND[::2]).score(places.points[1::2], KIND[1::2])
    assert shown > 0.9
    noise = project(RNG.normal(size=(60, 80)), how).points
    assert KNeighborsClassifier(5).fit(noise[::2], KIND[::2]).score(noise[1::2], KIND[1::2]) < 0.7


@pytest.mark.parametrize("how", ["pca", "tsne"])
def test_the_same_features_give_the_same_picture(how: Projection) -> None:
    assert np.array_equal(project(FEATURES, how, 1).points, project(FEATURES, how, 1).points)


def test_the_scale_of_a_feature_does_not_matter() -> None:
    scaled = FEATURES * np.logspace(-3, 3, 80)
    np.testing.assert_allclose(project(FEATURES, "pca").points, project(scaled, "pca").points, atol=1e-6)


def test_few_rows_and_one_feature() -> None:
    with pytest.raises(NnsslError, match="4 rows make no picture"):
        project(FEATURES[:4], "tsne")
    assert project(FEATURES[:5], "tsne").note == "t-SNE, perplexity 1"
    for how in ("pca", "tsne"):
        assert np.isfinite(project(FEATURES[:, :1], how).points).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["classes", "regression"])
def test_colours_show_the_values(kind: str, tmp_path: Path) -> None:
    places = project(FEATURES, "pca")
    values = KIND if kind == "classes" else np.arange(60.0)
    draw(places, values, kind, "y", "title", tmp_path / "a.png")  # type: ignore[arg-type]
    draw(places, values[::-1], kind, "y", "title", tmp_path / "b.png")  # type: ignore[arg-type]
    first, second = (np.asarray(Image.open(tmp_path / n).convert("RGB")) for n in ("a.png", "b.png"))
    assert first.shape == second.shape
    assert (first != second).any()


@pytest.mark.slow
@pytest.mark.parametrize("per,how", [("slice", "tsne"), ("case", "pca")])
def test_nnssl_embed_draws_beside_its_file(pretraining: Path, tmp_path: Path, per: str, how: str) -> None:
    out = tmp_path / "features.npz"
    given = [
        "-d",
        "902",
        "-c",
        "2d",
        "--init",
        "random",
        "--per",
        per,
        "--picture",
        how,
        "-device",
        "cpu",
        "-o",
        str(out),
    ]
    assert run_command("embed", *given) == 0
    assert {p.name for p in tmp_path.iterdir() if p.suffix} == {"features.npz", f"features_{how}.png"}


def test_nnssl_probe_names_its_pictures(tmp_path: Path) -> None:
    target = TargetColumn("side of it", "classes", tuple(f"c{i}" for i in range(60)), KIND, tuple("p" * 60), ())
    features = {f"c{i}": row for i, row in enumerate(FEATURES)}
    _picture(Namespace(picture="pca", seed=0, o=tmp_path), target, "mine/25", features)
    assert [p.name for p in tmp_path.iterdir()] == ["pca_side_of_it_mine_25.png"]


@pytest.mark.parametrize(
    "changes,text",
    [
        (["-o", "{tmp}/file"], "is a file, and no folder"),
        (["--init", "a=x.pth", "a=y.pth"], "--init a=...: the name is taken"),
        (["--seed", str(2**32)], "is not a seed from 0 to 4294967295"),
    ],
)
def test_nnssl_probe_says_mistakes_before_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], text: str
) -> None:
    (tmp_path / "file").write_text("x")
    given = ["-d", "1", "-c", "2d", "--labels", "t.csv", "--target", "y", "-o", str(tmp_path / "out")]
    assert run_command("probe", *given, *(word.format(tmp=tmp_path) for word in changes)) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    "name,text", [("x.parquet", "parquet needs pyarrow"), ("file/x.npz", "is a file"), ("x.npz", "there is a folder")]
)
def test_nnssl_embed_says_at_once_what_it_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "file").write_text("x")
    (tmp_path / "x.npz").mkdir()
    assert run_command("embed", "-d", "1", "-c", "2d", "--init", "random", "-o", str(tmp_path / name)) == 2
    assert text in capsys.readouterr().err


def test_nnssl_probe_says_at_once_what_it_cannot_split(
    pretraining: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases, _ = case_reader("Dataset902_Pool", "nnsslPlans", "3d_fullres")
    (tmp_path / "t.csv").write_text("case,amount\n" + "".join(f"{case},{i}\n" for i, case in enumerate(cases)))
    given = ["-d", "902", "-c", "3d_fullres", "--labels", str(tmp_path / "t.csv"), "--target", "amount:regression"]
    assert run_command("probe", *given, "-device", "cpu", "-o", str(tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert f"{len(cases)} patients are too few" in said
    assert "features" not in said
    assert not (tmp_path / "out").exists()
