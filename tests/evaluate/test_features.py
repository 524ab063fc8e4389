"""Pooled features: sizes, tiles, padding, levels, and loading that is never silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.evaluate import features
from nnssl.evaluate.features import case_reader, make_extractor

WHERE = ("Dataset901_Target", "nnsslPlans")


def test_rows_and_names(pretraining: Path) -> None:
    deep = make_extractor("random", *WHERE, "3d_fullres")
    both = make_extractor("random", *WHERE, "3d_fullres", levels="all", pooling="avg")
    names, read = case_reader(*WHERE, "3d_fullres")
    image = read(names[0])
    assert deep(image).shape == (1, len(deep.names()))
    assert len(deep.names()) == 2 * deep.encoder.output_channels[-1]
    assert both(image).shape == (1, sum(both.encoder.output_channels))
    assert both.names()[0] == "level0_avg_0"
    assert np.isfinite(deep(image)).all()


def test_a_2d_encoder_gives_a_row_per_slice(pretraining: Path) -> None:
    flat = make_extractor("random", *WHERE, "2d")
    names, read = case_reader(*WHERE, "2d")
    image = read(names[0])
    found = flat(image)
    assert found.shape[0] == image.shape[1]
    np.testing.assert_allclose(found[3:4], flat(image[:, 3:4]), rtol=1e-4, atol=1e-5)


def test_the_same_case_gives_the_same_and_seeds_differ(pretraining: Path) -> None:
    names, read = case_reader(*WHERE, "3d_fullres")
    image = read(names[0])
    one, again, other = (make_extractor("random", *WHERE, "3d_fullres", seed=s)(image) for s in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.allclose(one, other)


def test_tiles_cover_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every voxel is in a tile, none is padded, and the largest value is found wherever it is."""
    x = torch.arange(20 * 24 * 28, dtype=torch.float32).reshape(1, 1, 20, 24, 28)
    tiles = list(features._tiles(x, (8, 16, 16), most=1000))
    assert {t.shape[2:] for t in tiles} == {torch.Size((8, 16, 16))}
    assert len(torch.unique(torch.cat([t.flatten() for t in tiles]))) == x.numel()


def test_large_cases_are_read_in_tiles(pretraining: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = make_extractor("random", *WHERE, "3d_fullres", levels="all")
    image = np.random.default_rng(0).normal(size=(1, 40, 48, 48)).astype(np.float32)
    whole = extractor(image)
    monkeypatch.setattr(features, "LARGEST_VOXELS", 1000)
    tiled = extractor(image)
    assert tiled.shape == whole.shape
    assert not np.array_equal(tiled, whole)
    assert np.corrcoef(tiled[0], whole[0])[0, 1] > 0.9


def test_loading_covers_the_encoder_or_is_refused(pretraining: Path, tmp_path: Path) -> None:
    torch.save({"encoder.stages.0.blocks.0.conv1.conv.weight": torch.ones(16, 16, 3, 3, 3)}, tmp_path / "x.pth")
    with pytest.raises(NnsslError):
        make_extractor(str(tmp_path / "x.pth"), *WHERE, "3d_fullres")
    with pytest.raises(NnsslError, match="does not exist"):
        make_extractor(str(tmp_path / "none.pth"), *WHERE, "3d_fullres")
    with pytest.raises(NnsslError, match="--levels 9"):
        make_extractor("random", *WHERE, "3d_fullres", levels="9")
