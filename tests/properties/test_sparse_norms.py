"""Norms over visible positions, against torch's own norm on these positions alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nnssl.networks.dense_masked import expand_mask, masked_norm
from nnssl.networks.tile_sparse import TileSparse
from nnssl.views import random_block_mask


def some_norm(kind: str, dim: int, channels: int, affine: bool, seed: int) -> Any:
    torch.manual_seed(seed % 2**31)
    norm: Any = getattr(nn, f"{kind}Norm{dim}d")(channels, affine=affine)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm.double()


@pytest.mark.parametrize("executor", ["dense", "tiles"])
@pytest.mark.parametrize("kind", ["Instance", "Batch"])
@given(data=st.data())
def test_norms_see_the_visible_positions_only(kind: str, executor: str, data: st.DataObject) -> None:
    dim = data.draw(st.sampled_from([2, 3]))
    grid = data.draw(st.tuples(*[st.integers(1, 3)] * dim).filter(lambda g: torch.Size(g).numel() > 1))
    block = data.draw(st.tuples(*[st.integers(1, 2)] * dim))
    batch, channels = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    seed = data.draw(st.integers(0, 2**31))
    size = tuple(g * b for g, b in zip(grid, block))
    draw = torch.Generator().manual_seed(seed)
    visible = random_block_mask(batch, grid, data.draw(st.floats(0.05, 0.95)), draw)
    x = 5 * torch.randn(batch, channels, *size, generator=draw, dtype=torch.float64) + 3
    norm = some_norm(kind, dim, channels, data.draw(st.booleans()), seed)
    reference = some_norm(kind, dim, channels, norm.weight is not None, seed)
    shown = expand_mask(visible, size)
    if executor == "dense":
        out = masked_norm(x.masked_fill(~shown, 0), ~shown, norm)
    else:
        tiles = TileSparse(visible, size)
        out = tiles.leave(tiles.norm(tiles.enter(x.masked_fill(~shown, torch.nan)), norm))
    assert (out[~shown.expand_as(out)] == 0).all()
    per_sample = [x[b][:, shown[b, 0]] for b in range(batch)]  # (C, positions)
    if per_sample[0].shape[1] * (batch if kind == "Batch" else 1) == 1:
        return  # torch refuses a norm over one number; ours answers the bias
    if kind == "Instance":
        wanted = [reference(row[None].reshape(1, channels, *[1] * (dim - 1), -1))[0].flatten(1) for row in per_sample]
    else:
        together = torch.stack(per_sample).reshape(batch, channels, *[1] * (dim - 1), -1)
        wanted = list(reference(together).flatten(2))
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(norm, name), getattr(reference, name))
    for b in range(batch):
        torch.testing.assert_close(out[b][:, shown[b, 0]], wanted[b], rtol=1e-7, atol=1e-7)
