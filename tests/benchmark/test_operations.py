"""Operations are those that are computed: against sums of ones, and of tiles against dense."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nnssl.benchmark.operations import count_flops, operation_counter
from nnssl.networks import DenseMasked, Executor, TileSparse, encode_visible
from nnssl.views import random_block_mask
from tests.networks.test_sparse import ENCODERS, blocks, crops


def operations(run: Any) -> int:
    with operation_counter() as counter:
        run()
    return int(counter.get_total_flops())


# kernel, stride, padding, dilation, groups, output padding
KINDS = [
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, (0, 0)),
    ((2, 2), (2, 2), (0, 0), (1, 1), 1, (0, 0)),
    ((3, 3), (2, 2), (1, 1), (1, 1), 1, (1, 1)),
    ((1, 3), (1, 2), (0, 1), (1, 1), 1, (0, 1)),
    ((3, 5), (2, 3), (2, 1), (2, 1), 2, (0, 2)),
    ((3, 3), (1, 1), (2, 2), (1, 1), 1, (0, 0)),  # as a tile of one position reads its gradient
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transposed", [False, True])
def test_every_convolution_counts_the_products_in_its_output(kind: Any, transposed: bool) -> None:
    """With ones everywhere an output is the number of products in it."""
    kernel, stride, padding, dilation, groups, extra = kind
    size = (3, 3) if padding == (2, 2) and stride == (1, 1) else (6, 7)
    x = torch.ones(2, 4, *size, requires_grad=True)
    weight = torch.ones(4, 6 // groups, *kernel) if transposed else torch.ones(6, 4 // groups, *kernel)
    weight.requires_grad_()
    if transposed:
        run = lambda: F.conv_transpose2d(x, weight, None, stride, padding, extra, groups, dilation)  # noqa: E731
        products = run().sum().item()
    else:
        run = lambda: F.conv2d(x, weight, None, stride, padding, dilation, groups)  # noqa: E731
        padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]), value=1.0)
        products = F.conv2d(padded, weight, None, stride, 0, dilation, groups).sum().item()
    assert operations(run) == 2 * products
    out = run()
    once = torch.ones_like(out)
    assert operations(lambda: torch.autograd.grad(out, x, once, retain_graph=True)) == 2 * products
    assert operations(lambda: torch.autograd.grad(out, weight, once, retain_graph=True)) == 2 * products
    assert operations(lambda: torch.autograd.grad(out, [x, weight], once)) == 4 * products


def test_a_matrix_product_and_its_gradient() -> None:
    """A forward pass of a matrix product is 2 n k m operations, its backward pass for the weights as many."""

    class Linear(nn.Linear):
        def step(self, batch: Any) -> None:
            self(batch).sum().backward()

    class Trainer:
        method = network = Linear(8, 16, bias=False)
        _step = method.step

    assert count_flops(Trainer(), torch.ones(4, 8)) == 2 * (2 * 4 * 8 * 16)  # type: ignore[arg-type]


def passes(way: type[Executor], conv: nn.Module, visible: torch.Tensor, tile: int) -> tuple[int, int]:
    """Operations of forward and backward pass of one convolution whose input needs a gradient."""
    size = [tile * n for n in visible.shape[2:]]
    x = torch.randn(visible.shape[0], 2, *size, requires_grad=True)
    ops = way(visible, size)
    entered, out = ops.enter(x), []
    forward = operations(lambda: out.append(ops.conv(entered, conv)))
    return forward, operations(lambda: out[0].sum().backward())


@pytest.mark.parametrize("tile", [16, 4, 2, 1])
def test_tiles_of_any_size_count_their_share(tile: int) -> None:
    """A margin is read, not multiplied: at stride 1 the share is that of the visible blocks, however small a tile."""
    visible = random_block_mask(1, (2, 2, 2), 0.75, torch.Generator().manual_seed(0))
    assert visible.float().mean() == 0.25
    conv = nn.Conv3d(2, 3, 3, padding=1)
    dense, tiles = (passes(way, conv, visible, tile) for way in (DenseMasked, TileSparse))
    for forward, backward in (dense, tiles):
        assert backward == 2 * forward
    assert dense[0] == 2 * (2 * tile) ** 3 * 27 * 2 * 3
    assert [t / d for t, d in zip(tiles, dense)] == [0.25, 0.25]


def strided_bound(edge: int, dim: int) -> float:
    """What a backward pass of 3^dim at stride 2 counts on tiles, as a share of that without margins.

    A tile with `edge` outputs reads one position more of the gradient. Each has three products per axis, of which the very
    first and the very last fall outside of what is computed: 3 (edge + 1) - 2 instead of 3 edge.
    """
    return (1 + ((3 * edge + 1) / (3 * edge)) ** dim) / 2


@pytest.mark.parametrize("tile", [16, 4, 2])
def test_strided_tiles_count_their_margin(tile: int) -> None:
    visible = random_block_mask(1, (2, 2, 2), 0.75, torch.Generator().manual_seed(0))
    conv = nn.Conv3d(2, 3, 3, stride=2, padding=1)
    dense, tiles = (passes(way, conv, visible, tile) for way in (DenseMasked, TileSparse))
    assert dense[1] == 2 * dense[0]
    assert tiles[0] / dense[0] == 0.25
    assert tiles[1] / dense[1] == pytest.approx(0.25 * strided_bound(tile // 2, 3))


@pytest.mark.parametrize("name", ["plain", "plain 3d, two channels", "residual", "residual 3d", "residual, bottleneck"])
def test_an_encoder_on_tiles_counts_little_more_than_the_visible_share(name: str) -> None:
    """All blocks visible is all of the work; half of them is half, and the margins of strided convolutions."""
    encoder = ENCODERS[name]()
    x = crops(encoder)
    half = blocks(x)
    share = half.float().mean().item()
    assert share == 0.5

    def step(way: type[Executor], visible: torch.Tensor) -> int:
        def both() -> None:
            sum(o.sum() for o in encode_visible(encoder, x, visible, way)).backward()

        return operations(both)

    dense = step(DenseMasked, half)
    assert dense == step(DenseMasked, torch.ones_like(half)), "dense computes what is hidden, too"
    worst = (1 + 2 * strided_bound(1, 2)) / 3  # forward and backward pass; strides are along two axes, in 3D too
    assert 1.0 < step(TileSparse, half) / (share * dense) < worst
    assert 1.0 < step(TileSparse, torch.ones_like(half)) / dense < worst
