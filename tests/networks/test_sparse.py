"""Sparse encoding. An executor that joins EXECUTORS must pass all of this."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual import BottleneckD
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import nn
from torch.utils.checkpoint import checkpoint

from nnssl.errors import NnsslError
from nnssl.networks import DenseMasked, Executor, check_grid, check_supported, encode_visible
from nnssl.networks.dense_masked import masked_norm
from nnssl.networks.tile_sparse import TileSparse
from nnssl.views import expand_blocks, random_block_mask
from tests.oracles.sparse_encoder import SparseOracle

EXECUTORS: list[type[Executor]] = [DenseMasked, TileSparse]
every_executor = pytest.mark.parametrize("executor", EXECUTORS)

NORM = {"eps": 1e-5, "affine": True}
LEAKY = {"nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}}


def plain(dim: int = 2, norm: str = "Instance", channels: int = 1, **options: Any) -> nn.Module:
    """Three stages; total stride 4 in 2D, (1, 4, 4) in 3D."""
    return _live(PlainConvEncoder(channels, 3, [3, 4, 5], **_common(dim, norm), n_conv_per_stage=2, **options))


def residual(dim: int = 2, norm: str = "Instance", channels: int = 1, **options: Any) -> nn.Module:
    """As `plain`, of residual blocks."""
    return _live(ResidualEncoder(channels, 3, [3, 4, 5], **_common(dim, norm), n_blocks_per_stage=[1, 2, 1], **options))


def _common(dim: int, norm: str) -> dict[str, Any]:
    kernels, strides = [[3, 3]] * 3, [[1, 1], [2, 2], [2, 2]]
    if dim == 3:
        kernels, strides = [[1, 3, 3], [3, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [1, 2, 2]]
    return {
        "conv_op": getattr(nn, f"Conv{dim}d"), "kernel_sizes": kernels, "strides": strides, "conv_bias": True,
        "norm_op": getattr(nn, f"{norm}Norm{dim}d") if norm else None, "norm_op_kwargs": dict(NORM), **LEAKY,
        "return_skips": True,
    }  # fmt: skip


def _live(encoder: nn.Module) -> nn.Module:
    """Random parameters, in float64: norms that start at one and biases at zero hide mistakes."""
    torch.manual_seed(0)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return encoder.double()


ENCODERS: dict[str, Any] = {
    "plain": lambda: plain(),
    "plain 3d, two channels": lambda: plain(3, channels=2),
    "plain, batch norm": lambda: plain(norm="Batch"),
    "plain, no norm": lambda: plain(norm=""),
    "plain, non-linearity first": lambda: plain(nonlin_first=True),
    "plain, average pooling": lambda: plain(pool="avg"),
    "residual": lambda: residual(),
    "residual 3d": lambda: residual(3),
    "residual, batch norm": lambda: residual(norm="Batch"),
    "residual, bottleneck": lambda: residual(block=BottleneckD, bottleneck_channels=2),
    "residual, squeeze-excitation": lambda: residual(squeeze_excitation=True),
    "residual, no stem": lambda: residual(disable_default_stem=True),
}
RANDOM_ENCODERS: dict[str, Any] = {
    "plain, max pooling": lambda: plain(pool="max"),
    "plain, dropout": lambda: plain(dropout_op=nn.Dropout2d, dropout_op_kwargs={"p": 0.5}),
    "residual, pooling, 3d": lambda: residual(3, pool_type="avg"),
    "residual, dropout 3d": lambda: residual(3, dropout_op=nn.Dropout3d, dropout_op_kwargs={"p": 0.5}),
    "residual, dropout of single numbers": lambda: residual(dropout_op=nn.Dropout, dropout_op_kwargs={"p": 0.5}),
    "residual, stochastic depth": lambda: residual(stochastic_depth_p=0.5),
    "residual 3d, squeeze-excitation": lambda: residual(3, squeeze_excitation=True),
}


def crops(encoder: nn.Module, batch: int = 2, seed: int = 0) -> torch.Tensor:
    weight = next(encoder.parameters())
    size = (8, 12) if weight.ndim == 4 else (2, 8, 12)
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(batch, weight.shape[1], *size, generator=draw, dtype=torch.float64)


def blocks(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Half of the blocks visible; a block is one total stride."""
    grid = (2, 3) if x.ndim == 4 else (2, 2, 3)
    return random_block_mask(x.shape[0], grid, 0.5, torch.Generator().manual_seed(seed))


def at(visible: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Block mask at the resolution of x."""
    return expand_blocks(visible, [n // g for n, g in zip(x.shape[2:], visible.shape[2:])])


def gradients(encoder: nn.Module, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Of a scalar that depends on every number of every stage."""
    total = sum((o * torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view(o.shape)).sum() for o in outputs)
    return list(torch.autograd.grad(total, list(encoder.parameters())))


def assert_close(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@every_executor
@pytest.mark.parametrize("name", [*ENCODERS, *RANDOM_ENCODERS])
def test_everything_visible_is_the_plain_encoder(name: str, executor: type[Executor]) -> None:
    encoder = (ENCODERS | RANDOM_ENCODERS)[name]().train()
    x = crops(encoder)
    torch.manual_seed(3)  # the same channels are dropped
    expected = encoder(x)
    expected_gradients = gradients(encoder, expected)
    running = {k: v.clone() for k, v in encoder.state_dict().items() if "running" in k or "tracked" in k}
    fresh = (ENCODERS | RANDOM_ENCODERS)[name]().train()
    torch.manual_seed(3)
    outputs = encode_visible(fresh, x, torch.ones_like(blocks(x)), executor)
    assert_close(outputs, expected)
    assert_close(gradients(fresh, outputs), expected_gradients)
    for key, value in running.items():
        torch.testing.assert_close(fresh.state_dict()[key], value)
    fresh.load_state_dict(encoder.state_dict())
    assert_close(encode_visible(fresh.eval(), x, torch.ones_like(blocks(x)), executor), encoder.eval()(x))


@every_executor
@pytest.mark.parametrize("name", list(ENCODERS))
def test_agrees_with_the_oracle(name: str, executor: type[Executor]) -> None:
    encoder = ENCODERS[name]()
    x = crops(encoder)
    visible = blocks(x)
    outputs = encode_visible(encoder, x, visible, executor)
    expected = SparseOracle(visible).encode(encoder, x)
    assert_close(outputs, expected)
    assert_close(gradients(encoder, outputs), gradients(encoder, expected))


@every_executor
def test_blocks_of_several_strides_agree_with_the_oracle(executor: type[Executor]) -> None:
    encoder = residual()
    x = crops(encoder)
    visible = torch.tensor([[True, False, False], [False, True, False]])[:, None, None]  # 8 x 4 voxels a block
    assert_close(encode_visible(encoder, x, visible, executor), SparseOracle(visible).encode(encoder, x))


@every_executor
@pytest.mark.parametrize("name", [*ENCODERS, *RANDOM_ENCODERS])
def test_noise_in_hidden_voxels_changes_no_bit(name: str, executor: type[Executor]) -> None:
    encoder = (ENCODERS | RANDOM_ENCODERS)[name]().train()
    x = crops(encoder)
    visible = blocks(x)
    outputs = []
    for filler in (torch.zeros_like(x), 100 * torch.randn_like(x), torch.full_like(x, torch.nan)):
        torch.manual_seed(3)
        outputs.append(encode_visible(encoder, torch.where(at(visible, x), x, filler), visible, executor))
    for first, *others in zip(*outputs):
        assert all(torch.equal(first, other) for other in others)
        assert torch.isfinite(first).all()


@every_executor
@pytest.mark.parametrize("make", [plain, residual])
def test_instance_norm_never_mixes_samples(make: Any, executor: type[Executor]) -> None:
    encoder = make(3)
    x = crops(encoder, batch=3)
    visible = blocks(x)
    before = encode_visible(encoder, x, visible, executor)
    x = x.clone()
    x[1] = 10 * torch.randn_like(x[1]) + 5
    visible[1] = visible[1].flip(-1)
    after = encode_visible(encoder, x, visible, executor)
    for a, b in zip(before, after):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
        assert not torch.equal(a[1], b[1])


@every_executor
@pytest.mark.parametrize("name", [*ENCODERS, *RANDOM_ENCODERS])
def test_every_stage_is_masked_and_only_there(name: str, executor: type[Executor]) -> None:
    encoder = (ENCODERS | RANDOM_ENCODERS)[name]().eval()
    x = crops(encoder)
    visible = blocks(x)
    outputs = encode_visible(encoder, x, visible, executor)
    assert [tuple(o.shape[2:]) for o in outputs] == [tuple(o.shape[2:]) for o in encoder(x)]
    for out in outputs:
        shown = at(visible, out).expand_as(out)
        assert (out[~shown] == 0).all()
        assert (out[shown] != 0).float().mean() > 0.95


def test_blocks_finer_than_the_deepest_stage_are_refused() -> None:
    with pytest.raises(NnsslError, match=r"multiples of the encoder's total stride \[4, 4\]"):
        encode_visible(plain(), torch.zeros(1, 1, 8, 16), torch.ones(1, 1, 4, 4, dtype=torch.bool), DenseMasked)
    with pytest.raises(NnsslError, match=r"multiples of the encoder's total stride \[1, 4, 4\]"):
        check_grid(plain(3), (3, 16, 16), (3, 4, 8))
    check_grid(plain(3), (3, 16, 16), (3, 4, 2))
    check_grid(plain(3), (3, 16, 16), (1, 4, 4))


@pytest.mark.parametrize("size", [(10, 8), (8, 6), (8, 8, 8)])
def test_a_patch_that_the_strides_do_not_divide_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(NnsslError, match="cannot be divided by the encoder's total stride"):
        check_grid(plain(), size, tuple(n // 4 for n in size))


@every_executor
@pytest.mark.parametrize("make", [plain, residual])
def test_two_masks_in_one_graph(make: Any, executor: type[Executor]) -> None:
    """A mask in a global would give the first pass the second one's mask in the backward pass."""
    encoder = make()
    x = crops(encoder)
    masks = [blocks(x, 0), blocks(x, 1)]
    assert not torch.equal(*masks)
    both = [encode_visible(encoder, x, m, executor) for m in masks]
    together = gradients(encoder, [*both[0], *both[1]])
    apart = [gradients(encoder, encode_visible(encoder, x, m, executor)) for m in masks]
    assert_close(together, [a + b for a, b in zip(*apart)])


@every_executor
@pytest.mark.parametrize("make", [plain, residual])
def test_gradient_checkpointing(make: Any, executor: type[Executor]) -> None:
    encoder = make()
    x = crops(encoder)
    masks = [blocks(x, 0), blocks(x, 1)]

    def run(mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(encode_visible(encoder, x, mask, executor))

    saved = [
        checkpoint(run, m, use_reentrant=False) for m in masks
    ]  # recomputed in the backward pass, in reverse order
    plainly = [run(m) for m in masks]
    assert_close(gradients(encoder, [*saved[0], *saved[1]]), gradients(encoder, [*plainly[0], *plainly[1]]))


@every_executor
@pytest.mark.parametrize("make", [plain, residual])
def test_the_plans_modules_stay_as_they_are(make: Any, executor: type[Executor]) -> None:
    encoder = make()
    x = crops(encoder)
    kinds, keys = [type(m) for m in encoder.modules()], list(encoder.state_dict())
    parameters = [id(p) for p in encoder.parameters()]
    dense = encoder(x)
    encode_visible(encoder, x, blocks(x), executor)
    assert [type(m) for m in encoder.modules()] == kinds
    assert not any("forward" in vars(m) for m in encoder.modules())
    assert list(encoder.state_dict()) == keys
    assert [id(p) for p in encoder.parameters()] == parameters
    assert all(torch.equal(a, b) for a, b in zip(dense, encoder(x)))
    state = encoder.state_dict()
    for key in [k for k in state if ".all_modules.0." in k]:
        assert state[key].data_ptr() == state[key.replace(".all_modules.0.", ".conv.")].data_ptr()


class _Own(ConvDropoutNormReLU):
    """A subclass may compute anything."""


def _group_norm(encoder: Any) -> None:
    encoder.stages[0][0].convs[0].all_modules[1] = nn.GroupNorm(1, 3)


def _subclass(encoder: Any) -> None:
    encoder.stages[1][0].convs[0].__class__ = _Own


def _overlapping_pool(encoder: Any) -> None:
    encoder.stages[0].insert(0, nn.AvgPool2d(3, 1, 1))


def _running_instance_norm(encoder: Any) -> None:
    encoder.stages[0][0].convs[0].all_modules[1] = nn.InstanceNorm2d(3, track_running_stats=True)


@pytest.mark.parametrize(
    ("spoil", "name"),
    [(_group_norm, "GroupNorm"), (_subclass, "_Own"), (_overlapping_pool, "AvgPool2d"),
     (_running_instance_norm, "InstanceNorm2d")],
)  # fmt: skip
def test_a_module_without_a_counterpart_is_named(spoil: Any, name: str) -> None:
    encoder = plain()
    check_supported(encoder)
    spoil(encoder)
    x = crops(encoder).float()
    with pytest.raises(NnsslError, match=name):
        encode_visible(encoder.float(), x, blocks(x), DenseMasked)
    with pytest.raises(NnsslError, match=name):
        check_supported(encoder)


def test_an_encoder_that_is_not_nnunets_is_named() -> None:
    encoder = nn.Sequential(nn.Conv2d(1, 3, 3))
    encoder.strides = [[1, 1]]
    for refused in (
        lambda: check_supported(encoder),
        lambda: encode_visible(encoder, torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 2, 2, dtype=torch.bool), DenseMasked),
    ):
        with pytest.raises(NnsslError, match="Sequential"):
            refused()


@every_executor
def test_autocast_stays_close_to_float32(executor: type[Executor]) -> None:
    encoder = residual().float()
    x = crops(encoder).float()
    visible = blocks(x)
    exact = encode_visible(encoder, x, visible, executor)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = encode_visible(encoder, x, visible, executor)
    for a, b in zip(exact, rough):
        assert (b[~at(visible, b).expand_as(b)] == 0).all()
        assert (a - b.float()).norm() < 0.05 * a.norm()


def test_norm_statistics_are_computed_in_float32() -> None:
    """In float16 the sum of these values would be infinite, and their variance zero."""
    draw = torch.Generator().manual_seed(0)
    x = (100 + torch.randn(1, 2, 32, 32, 4, generator=draw)).half()
    hidden = torch.zeros(1, 1, 32, 32, 4, dtype=torch.bool)
    hidden[..., 2:] = True
    norm = nn.InstanceNorm3d(2, affine=True)
    out = masked_norm(x.masked_fill(hidden, 0), hidden, norm)
    assert out.dtype == torch.float16
    expected = nn.functional.instance_norm(x[..., :2].float())
    torch.testing.assert_close(out[..., :2].float(), expected, atol=5e-3, rtol=5e-3)


def test_batch_norm_tracks_visible_positions_only() -> None:
    draw = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(3, 4, 6, 6, generator=draw) + 1
    hidden = torch.rand(3, 1, 6, 6, generator=draw) < 0.5
    values = x.movedim(1, -1)[~hidden[:, 0]]  # (visible positions of the batch, C)
    for momentum in (0.1, None):
        norm, stock = (nn.BatchNorm2d(4, momentum=momentum) for _ in range(2))
        for _ in range(2):
            masked_norm(x.masked_fill(hidden, 0), hidden, norm)
            stock(values[..., None, None])
        for key, value in stock.state_dict().items():
            torch.testing.assert_close(norm.state_dict()[key], value)
        before = {k: v.clone() for k, v in norm.state_dict().items()}
        out = masked_norm(x.masked_fill(hidden, 0), hidden, norm.eval())
        torch.testing.assert_close(out.movedim(1, -1)[~hidden[:, 0]], stock.eval()(values[..., None, None])[..., 0, 0])
        assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
