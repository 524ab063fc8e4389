"""A step of several processes that also works in parts, or computes on tiles, or computes stages again: that of one."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from nnssl.trainers.launch import Request, launch

from tests.trainers.rank_steps import gradients

BATCH = 5
"""Crops 3 and 2; in two parts 2 and 1, 1 and 1."""
WHOLE = {name: {"executor": name} for name in ("dense", "tiles")}
SETTINGS: list[dict[str, Any]] = [
    WHOLE["dense"],
    {"executor": "dense", "accumulate": 2},
    {"executor": "tiles", "checkpointing": True},
    {"executor": "tiles", "checkpointing": True, "accumulate": 2},
]


def steps(processes: int, settings: list[dict[str, Any]], folder: Path) -> list[list[dict[str, Any]]]:
    """Per process and setting what `gradients` writes down."""
    request = Request(
        "902", "3d_fullres", "spark", device="cpu", processes=processes,
        flags={"batch_size": BATCH, "iterations": 2, "epochs": 1}, sets=("workers=0",),
    )  # fmt: skip
    assert launch(request, partial(gradients, settings=settings, folder=str(folder))) == 0
    return [torch.load(folder / f"{processes}_{rank}.pth") for rank in range(processes)]


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], rounding: float, what: Any) -> None:
    """Gradients, up to rounding in units of the largest."""
    scale = max(float(g.abs().max()) for g in wanted.values())
    assert scale > 1e-4, "a gradient of zero would agree with anything"
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=10 * rounding, atol=rounding * scale), (what, name)


@pytest.mark.slow
def test_two_processes_are_one(pretraining: Path, tmp_path: Path) -> None:
    [alone] = steps(1, list(WHOLE.values()), tmp_path)
    shutil.rmtree(tmp_path / "results")
    ranks = steps(2, SETTINGS, tmp_path)
    for setting, *found in zip(SETTINGS, *ranks, strict=True):
        wanted = alone[list(WHOLE).index(setting["executor"])]
        mean = sum(f["loss"] for f in found) / 2  # as the trainer averages over processes
        assert torch.allclose(mean, wanted["loss"], rtol=1e-5), setting
        for name, value in wanted["terms"].items():
            assert torch.allclose(sum(f["terms"][name] for f in found) / 2, value, rtol=1e-4), (setting, name)
        for f in found:
            assert_same(f["gradients"], wanted["gradients"], 1e-5, setting)
            # tiles sum up in another order, which moves values across the kinks of the network
            assert_same(f["gradients"], alone[0]["gradients"], 1e-3, setting)
            buckets = f["exchanged"]
            assert buckets and sorted(buckets) == list(range(len(buckets))), f"{setting}: exchanged more than once"
