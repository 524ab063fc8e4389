"""What a sparse encoder computes: the plans' encoder on the visible blocks of a crop, as SparK does.

SparK (Tian et al. 2023, ICLR, section 3.1) runs a convolutional network as if the hidden positions did not exist: nothing
flows out of them, nothing is computed for them, and norm statistics come from visible positions only. This file walks
through the plans' modules in the order in which their own `forward` would, and asks an `Executor` to carry out every
operation. How that is done is the executor's affair: `DenseMasked` (dense_masked.py) is the reference, `TileSparse`
(tile_sparse.py) the fast one.

The plans' modules are only read, never converted or patched: `conv` and `all_modules.0` stay one object, and the mask is
an argument, so the same encoder may run twice with different masks, within gradient checkpointing, or densely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.regularization import DropPath, SqueezeExcite
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD, StackedResidualBlocks
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU, StackedConvBlocks
from torch import nn

from nnssl.errors import NnsslError
from nnssl.networks import timm_sparse
from nnssl.networks.checkpointing import checkpointed
from nnssl.networks.executor import Executor, ExecutorMaker, Features
from nnssl.networks.timm_unet import TimmEncoder
from nnssl.networks.unet import total_stride

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, *MAX_POOLS)
CHANNEL_DROPOUTS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
POINTWISE = (
    *(nn.Identity, nn.Dropout, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Softplus, nn.Hardswish, nn.Sigmoid, nn.Tanh),
)


def encode_visible(
    encoder: nn.Module, x: torch.Tensor, visible: torch.Tensor, executor: ExecutorMaker
) -> list[torch.Tensor]:
    """Run the plans' encoder on visible blocks. With everything visible the result is the encoder's own.

    Args:
        encoder: PlainConvEncoder, ResidualEncoder, or a TimmEncoder with a ResNet.
        x: (B, C, *spatial).
        visible: (B, 1, *grid) bool, True = visible. The block, spatial / grid, is a multiple of the total stride.
        executor: how to compute it.

    Returns:
        Output of every stage, highest resolution first, (B, C_s, *spatial_s) with zeros at hidden positions.

    Raises:
        NnsslError: the grid does not fit, or the encoder has a module without a sparse counterpart.
    """
    ops, maps = encode_sparse(encoder, x, visible, executor)
    return [ops.leave(features) for features in maps]


def encode_sparse(
    encoder: nn.Module, x: torch.Tensor, visible: torch.Tensor, executor: ExecutorMaker
) -> tuple[Executor, list[Features]]:
    """As `encode_visible`, but what leaves no stage yet: the executor, and its features of every stage."""
    check_grid(encoder, x.shape[2:], visible.shape[2:])
    if type(encoder) not in ENCODERS:
        raise _unknown(encoder)
    ops = executor(visible, x.shape[2:])
    walk = _Walk(ops, x)
    features = ops.enter(x)
    if isinstance(encoder, TimmEncoder):
        maps = timm_sparse.feature_maps(walk, encoder.backbone, features)
        return ops, [features, *maps] if encoder.shows_image else maps
    stem = getattr(encoder, "stem", None)
    if stem is not None:
        features = walk.run(stem, features)
    maps = []
    for stage in encoder.stages:  # type: ignore[union-attr]
        features = walk.stage(stage, features)
        maps.append(features)
    return ops, maps


def check_grid(encoder: nn.Module, size: Sequence[int], grid: Sequence[int]) -> None:
    """Blocks must tile the crop, and positions of the deepest stage must tile a block.

    Raises:
        NnsslError: otherwise; a finer block would leave the deepest stage without a mask.
    """
    stride = total_stride(encoder)
    if len(size) != len(stride) or len(grid) != len(stride) or any(n % s for n, s in zip(size, stride)):
        raise NnsslError(
            f"a crop of {list(size)} voxels cannot be divided by the encoder's total stride {list(stride)}: "
            "plan with a patch size that is a multiple of it on every axis"
        )
    if any(g < 1 or n % g or (n // g) % s for n, g, s in zip(size, grid, stride)):
        raise NnsslError(
            f"a grid of {list(grid)} blocks on a crop of {list(size)} voxels: the blocks must divide the crop and be "
            f"multiples of the encoder's total stride {list(stride)} on every axis"
        )


def check_supported(encoder: nn.Module) -> None:
    """Say at once, rather than in the first step, whether `encode_visible` can run an encoder.

    Raises:
        NnsslError: names the module that has no sparse counterpart.
    """
    if type(encoder) not in ENCODERS:
        raise _unknown(encoder)
    for name, module in encoder.named_modules():
        if not _known(module):
            raise _unknown(module, name)


def _known(module: nn.Module) -> bool:
    kind = type(module)
    if kind in INSTANCE_NORMS:
        return not module.track_running_stats
    if kind in POOLS:
        return not overlaps(module) or (kind in MAX_POOLS and _centred(module))
    if kind is SqueezeExcite:
        return not module.add_maxpool
    if timm_sparse.known_part(module):
        return True
    return kind in (*ENCODERS, *COMPOUND, *CONVOLUTIONS, *BATCH_NORMS, *CHANNEL_DROPOUTS, *POINTWISE, DropPath)


def overlaps(pool: Any) -> bool:
    """Whether a pooling's windows overlap or reach beyond the map: they may then hold visible and hidden positions."""
    stride = pool.kernel_size if pool.stride is None else pool.stride
    return pool.kernel_size != stride or pool.padding not in (0, (0,) * 2, (0,) * 3)


def _centred(pool: Any) -> bool:
    """Whether the window of a position has that position in it, so that a visible one sees something."""
    kernel, padding = (v if isinstance(v, tuple) else (v,) for v in (pool.kernel_size, pool.padding))
    return pool.dilation in (1, (1,) * len(kernel)) and all(k == 2 * p + 1 for k, p in zip(kernel, padding))


def _unknown(module: nn.Module, name: str = "") -> NnsslError:
    place = f" ('{name}')" if name else ""
    return NnsslError(
        f"the encoder has a {type(module).__name__}{place}, for which sparse encoding has no counterpart. It runs the "
        "encoders of nnU-Net (PlainConvUNet, ResidualEncoderUNet) with instance or batch norm, and the ResNets of timm. "
        "Use such plans, or a method that needs no sparse encoder, such as masked_region"
    )


class _Walk:
    """One pass through the modules with one executor. `x` is the crop, for its batch size, type and device."""

    def __init__(self, ops: Executor, x: torch.Tensor) -> None:
        self.ops = ops
        self.x = x

    def run(self, module: Any, x: Features) -> Features:
        """What `module(x)` would be if hidden positions did not exist."""
        if not isinstance(module, nn.Module):
            return x  # where a block needs no projection or non-linearity it holds `lambda x: x`
        kind = type(module)
        self.check(module)
        compound = COMPOUND.get(kind) or timm_sparse.BLOCKS.get(timm_sparse.class_name(kind))
        if compound is not None:
            return compound(self, module, x)
        if kind in CONVOLUTIONS:
            return self.ops.conv(x, module)
        if kind in (*INSTANCE_NORMS, *BATCH_NORMS):
            return self.ops.norm(x, module)
        if kind in POOLS:
            return self.ops.pool(x, module)
        if kind in POINTWISE:
            return self.ops.pointwise(x, module)
        raise _unknown(module)

    def stage(self, module: nn.Module, x: Features) -> Features:
        """`run`, checkpointed if the module is. torch.compile allows no side effect in what may be computed twice."""
        again = checkpointed(module)
        return self.run(module, x) if again is None else again.run(partial(self._alone, module), x)

    def _alone(self, module: nn.Module, x: Features) -> Features:
        return _Walk(self.ops.apart(), self.x).run(module, x)

    def check(self, module: nn.Module) -> None:
        """Refuse a module without a sparse counterpart."""
        if not _known(module):
            raise _unknown(module)

    def each(self, modules: Any, x: Features) -> Features:
        """One after the other."""
        for module in modules:
            x = self.run(module, x)
        return x

    def conv_unit(self, unit: Any, x: Features) -> Features:
        """ConvDropoutNormReLU."""
        for module in unit.all_modules:
            if type(module) in CHANNEL_DROPOUTS:  # on ones it gives the factor of each sample and channel
                x = self.ops.scale(x, module(self.ones(unit.conv.out_channels)))
            else:
                x = self.run(module, x)
        return x

    def basic_block(self, block: Any, x: Features) -> Features:
        """BasicBlockD."""
        return self._residual(block, x, (block.conv1, block.conv2), block.nonlin2)

    def bottleneck(self, block: Any, x: Features) -> Features:
        """BottleneckD."""
        return self._residual(block, x, (block.conv1, block.conv2, block.conv3), block.nonlin3)

    def _residual(self, block: Any, x: Features, convs: Sequence[Any], nonlin: Any) -> Features:
        shortcut = self.run(block.skip, x)
        out = self.each(convs, x)
        if block.apply_stochastic_depth:  # on ones it gives the factor of each sample
            out = self.ops.scale(out, block.drop_path(self.ones(1)))
        if block.apply_se:
            out = self._squeeze_excite(block.squeeze_excitation, out)
        return self.run(nonlin, self.ops.add(out, shortcut))

    def _squeeze_excite(self, module: Any, x: Features) -> Features:
        """SqueezeExcite. In 3D, too, it averages axes 2 and 3 only: the network that is fine-tuned will do the same."""
        self.check(module)
        squeezed = module.fc1(self.ops.mean(x, (2, 3)))
        return self.ops.scale(x, module.gate(module.fc2(module.act(module.bn(squeezed)))))

    def ones(self, channels: int) -> torch.Tensor:
        """(B, channels, 1, ...): what a per-sample factor is asked of."""
        return self.x.new_ones(self.x.shape[0], channels, *(1 for _ in self.x.shape[2:]))


ENCODERS = (PlainConvEncoder, ResidualEncoder, TimmEncoder)
# Looked up by exact type: a subclass with a forward of its own must be refused, not misread.
COMPOUND: dict[type, Callable[[_Walk, Any, Features], Features]] = {
    nn.Sequential: _Walk.each,
    StackedConvBlocks: lambda walk, module, x: walk.each(module.convs, x),
    StackedResidualBlocks: lambda walk, module, x: walk.each(module.blocks, x),
    ConvDropoutNormReLU: _Walk.conv_unit,
    BasicBlockD: _Walk.basic_block,
    BottleneckD: _Walk.bottleneck,
}
