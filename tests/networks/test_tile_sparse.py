"""The tile executor against the dense-masked one. What every executor must do is in test_sparse.py."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from nnssl.errors import NnsslError
from nnssl.networks import DenseMasked, Executor, TileSparse, encode_visible
from nnssl.networks.checkpointing import checkpoint_stages
from nnssl.networks.tile_conv import fits
from nnssl.networks.tile_index import NeighbourRows, TileIndex
from nnssl.views import random_block_mask
from tests.networks.test_sparse import ENCODERS, assert_close, blocks, crops, gradients, plain, residual
from tests.networks.test_timm_unet import encoder as timm_encoder

WAYS: tuple[type[Executor], ...] = (DenseMasked, TileSparse)


def compare(x: torch.Tensor, visible: torch.Tensor, module: nn.Module, ask: Any) -> None:
    """`ask(ops, features)` with both executors: result, gradients of the input and of the parameters."""
    answers = []
    for way in WAYS:
        leaf = x.clone().requires_grad_()
        ops = way(visible, x.shape[2:])
        out = ops.leave(ask(ops, ops.enter(leaf)))
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        answers.append([out.detach(), *torch.autograd.grad((out * weight).sum(), [leaf, *module.parameters()])])
    assert_close(*answers)


# kernel, stride, padding, dilation, groups per case; the crop is 24 positions in blocks of 6 along each axis
CONVOLUTIONS = {
    "3x3": (3, 1, 1, 1, 1),
    "3x3, stride 2": (3, 2, 1, 1, 1),
    "3x3, stride 3": (3, 3, 1, 1, 1),
    "1x1": (1, 1, 0, 1, 1),
    "1x1, stride 2": (1, 2, 0, 1, 1),
    "2x2, stride 2": (2, 2, 0, 1, 1),
    "2x2, stride 3": (2, 3, 0, 1, 1),
    "4x4, stride 2": (4, 2, 1, 1, 1),
    "5x5, stride 2": (5, 2, 2, 1, 1),
    "7x7, stride 2, of timm": (7, 2, 3, 1, 1),
    "dilated": (3, 1, 2, 2, 1),
    "dilated, stride 2": (3, 2, 2, 2, 1),
    "farther than the neighbour": (5, 1, 8, 4, 1),
    "grouped": (3, 1, 1, 1, 2),
    "padding by name": (3, 1, "same", 1, 1),
    "one axis": ((1, 3), (1, 2), (0, 1), 1, 1),
}


@pytest.mark.parametrize("name", list(CONVOLUTIONS))
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_every_kind_of_convolution(name: str, ratio: float) -> None:
    kernel, stride, padding, dilation, groups = CONVOLUTIONS[name]
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups).double()
    assert fits(conv, (6, 6)) == (padding != "same")
    visible = random_block_mask(2, (4, 4), ratio, torch.Generator().manual_seed(1))
    compare(torch.randn(2, 4, 24, 24, dtype=torch.float64), visible, conv, lambda ops, x: ops.conv(x, conv))


@pytest.mark.parametrize("tile", [1, 2, 3])
def test_small_tiles_in_3d(tile: int) -> None:
    """At the deepest stage a tile may be one position, and all it reads lies in other tiles."""
    torch.manual_seed(0)
    conv = nn.Conv3d(2, 3, 3, padding=1).double()
    visible = random_block_mask(2, (3, 2, 4), 0.5, torch.Generator().manual_seed(1))
    x = torch.randn(2, 2, 3 * tile, 2 * tile, 4 * tile, dtype=torch.float64)
    compare(x, visible, conv, lambda ops, x: ops.conv(x, conv))


@pytest.mark.parametrize("name", list(ENCODERS))
@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.75, 0.95])
def test_encoders_at_every_ratio(name: str, ratio: float) -> None:
    """Plain, residual and bottleneck blocks, every norm, pooling in skips, 2D and thick slices; outputs and gradients."""
    answers = []
    for way in WAYS:
        encoder = ENCODERS[name]().train()
        x = crops(encoder, batch=3)
        x = torch.cat([x, x.flip(-1)], dim=-1)  # 24 wide: 12 blocks in 2D, 24 in 3D
        grid = (2, 6) if x.ndim == 4 else (2, 2, 6)
        visible = random_block_mask(3, grid, ratio, torch.Generator().manual_seed(2))
        outputs = encode_visible(encoder, x, visible, way)
        buffers = [b.clone() for b in encoder.buffers()]
        answers.append([*outputs, *gradients(encoder, outputs), *buffers])
    assert_close(*answers)


@pytest.mark.parametrize("way", ["isotropic", "blocks of two strides", "thick slices", "2d"])
def test_geometries(way: str) -> None:
    size, grid, make = {
        "isotropic": ((2, 8, 8), (2, 2, 2), lambda: residual(3)),
        "blocks of two strides": ((4, 16, 8), (2, 2, 2), lambda: residual(3)),
        "thick slices": ((3, 8, 16), (1, 2, 4), lambda: plain(3)),
        "2d": ((24, 16), (3, 4), lambda: plain(2)),
    }[way]
    answers = []
    for executor in WAYS:
        encoder = make()  # type: ignore[no-untyped-call]
        x = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        visible = random_block_mask(2, grid, 0.6, torch.Generator().manual_seed(1))
        outputs = encode_visible(encoder, x, visible, executor)
        answers.append([*outputs, *gradients(encoder, outputs)])
    assert_close(*answers)


@pytest.mark.parametrize("backbone", ["resnet18", "seresnet18", "resnet26d"])
def test_resnets_of_timm(backbone: str) -> None:
    """Overlapping max pooling, average pooling in skips, squeeze-excitation, batch norm."""
    x = torch.randn(2, 1, 64, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    visible = random_block_mask(2, (2, 3), 0.5, torch.Generator().manual_seed(1))
    answers = []
    for way in WAYS:
        encoder = timm_encoder(backbone).double().train()
        outputs = encode_visible(encoder, x, visible, way)
        answers.append([*outputs, *gradients(encoder, outputs), *encoder.buffers()])
    assert_close(*answers)


def test_the_gradient_of_the_input_and_of_the_filler() -> None:
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    visible = random_block_mask(2, (2, 3), 0.5, torch.Generator().manual_seed(0))
    filler = torch.randn(3, dtype=torch.float64)
    answers = []
    for way in WAYS:
        leaves = [x.clone().requires_grad_(), filler.clone().requires_grad_()]
        ops = way(visible, (8, 12))
        out = ops.leave(ops.enter(leaves[0]), leaves[1])
        weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
        answers.append([out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)])
    assert_close(*answers)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_batch_norm_trains_and_evaluates_alike(momentum: float | None, kind: Any) -> None:
    """A SyncBatchNorm is that of one process, as in the reference."""
    x = 3 * torch.randn(2, 3, 8, 12, dtype=torch.float64) + 5
    visible = random_block_mask(2, (2, 3), 0.5, torch.Generator().manual_seed(0))
    states = []
    for way in WAYS:
        norm = kind(3, momentum=momentum).double()
        ops = way(visible, (8, 12))
        trained = [ops.leave(ops.norm(ops.enter(x * k), norm)) for k in (1, 2)]
        norm.eval()
        states.append([*trained, ops.leave(ops.norm(ops.enter(x), norm)), *norm.state_dict().values()])
    for a, b in zip(*states):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_instance_norm_far_from_zero_is_precise() -> None:
    """Mean 1000, deviation 1: a variance from the mean of squares would be noise in float32."""
    x = 1000 + torch.randn(2, 3, 16, 16)
    visible = random_block_mask(2, (4, 4), 0.5, torch.Generator().manual_seed(0))
    norm = nn.InstanceNorm2d(3, affine=True)
    outs = []
    for way, given in ((TileSparse, x), (DenseMasked, x.double())):
        ops = way(visible, (16, 16))
        outs.append(ops.leave(ops.norm(ops.enter(given), norm)).double())
    assert (outs[0] - outs[1]).abs().max() < 2e-3


def test_a_single_position_is_normalised_to_the_bias() -> None:
    """torch refuses it."""
    visible = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    visible[..., 0] = torch.tensor([True, False])
    for norm in (nn.InstanceNorm2d(3, affine=True), nn.BatchNorm2d(3)):
        nn.init.constant_(norm.bias, 0.5)
        ops = TileSparse(visible, (2, 2))
        assert ops.leave(ops.norm(ops.enter(torch.randn(1, 3, 2, 2)), norm))[0, :, 0, 0].tolist() == [0.5] * 3


def test_rows_are_what_a_loop_says() -> None:
    visible = random_block_mask(2, (3, 4), 0.5, torch.Generator().manual_seed(3))
    index = TileIndex(visible, 6)
    tile, low, high = (2, 3), (1, 2), (2, 4)
    chosen = [(b, r, c) for b in range(2) for r in range(3) for c in range(4) if visible[b, 0, r, c]]
    expected = []
    for b, r, c in chosen:
        for i, j in itertools.product(range(-1, 4), range(-2, 7)):
            y, x = r * 2 + i, c * 3 + j
            there = (b, y // 2, x // 3)
            shown = 0 <= y < 6 and 0 <= x < 12 and there in chosen
            expected.append(chosen.index(there) * 6 + y % 2 * 3 + x % 3 if shown else 12 * 6)
    assert NeighbourRows(index).rows(tile, low, high).tolist() == expected


def test_a_mask_that_breaks_the_promise_is_an_error() -> None:
    """Else a hidden block would be computed on, or a visible one left out, without a word."""
    visible = torch.tensor([[True, False, True], [True, False, False]])[:, None, None]
    with pytest.raises(NnsslError, match=r"\[2, 1\]"):
        TileIndex(visible)
    with pytest.raises(RuntimeError, match="promised"):
        TileIndex(visible, 2)
    with pytest.raises(NnsslError):
        TileIndex(torch.zeros(2, 1, 2, 2, dtype=torch.bool))


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("way", [lambda v, size: TileSparse(v, size, 3), DenseMasked], ids=["tiles", "dense"])
@pytest.mark.parametrize("make", [plain, residual])
def test_compiles_into_one_graph(make: Any, way: Any, checkpointed: bool) -> None:
    """One graph also means that nothing waits for the device: reading a number from it would break the graph."""
    encoder = make()
    if checkpointed:
        assert checkpoint_stages(encoder) > 1
    x = crops(encoder)
    visible = blocks(x)

    def run(image: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        return encode_visible(encoder, image, mask, way)

    torch._dynamo.reset()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    plainly = run(x, visible)
    outputs = compiled(x, visible)
    assert_close(outputs, plainly)
    assert_close(gradients(encoder, outputs), gradients(encoder, plainly))
    other = blocks(x, 5)
    assert_close(compiled(x, other), run(x, other))


def test_keeps_less_for_the_gradient() -> None:
    """A quarter is visible: what is kept between forward and backward must shrink alike, margins included."""
    kept = []
    for way in WAYS:
        encoder = residual(channels=1).float()
        x = torch.randn(2, 1, 64, 64)
        visible = random_block_mask(2, (4, 4), 0.75, torch.Generator().manual_seed(0))
        storages: dict[int, int] = {}

        def note(t: torch.Tensor, seen: dict[int, int] = storages) -> torch.Tensor:
            if t.is_floating_point() and not isinstance(t, nn.Parameter):
                seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            outputs = encode_visible(encoder, x, visible, way)
            kept.append(sum(storages.values()))
        del outputs
    assert kept[1] < 0.35 * kept[0]
