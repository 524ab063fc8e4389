"""How the walker of sparse.py goes through the ResNets of timm: ResNet, ResNeXt, Wide ResNet, SE-ResNet and their variants.

Modules are named by their full class name, so that nothing of timm is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from nnssl.networks.executor import Features

if TYPE_CHECKING:
    from nnssl.networks.sparse import _Walk

FEATURES = "timm.models._features.FeatureListNet"
DROP_PATH = "timm.layers.drop.DropPath"
SQUEEZE_EXCITE = "timm.layers.squeeze_excite.SEModule"


def class_name(kind: type) -> str:
    """Full name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def feature_maps(walk: _Walk, backbone: Any, x: Features) -> list[Features]:
    """What a `FeatureListNet` collects on its way."""
    maps = []
    for name, module in backbone.items():
        x = walk.stage(module, x)
        if name in backbone.return_layers:
            maps.append(x)
    return maps


def basic_block(walk: _Walk, block: Any, x: Features) -> Features:
    """timm.models.resnet.BasicBlock."""
    out = walk.each((block.conv1, block.bn1, block.drop_block, block.act1, block.aa, block.conv2, block.bn2), x)
    return walk.run(block.act2, _residual(walk, block, out, x))


def bottleneck(walk: _Walk, block: Any, x: Features) -> Features:
    """timm.models.resnet.Bottleneck."""
    first = (block.conv1, block.bn1, block.act1, block.conv2, block.bn2, block.drop_block, block.act2, block.aa)
    out = walk.each((*first, block.conv3, block.bn3), x)
    return walk.run(block.act3, _residual(walk, block, out, x))


def _residual(walk: _Walk, block: Any, out: Features, x: Features) -> Features:
    if block.se is not None:
        out = squeeze_excite(walk, block.se, out)
    if block.drop_path is not None:  # on ones it gives the factor of each sample
        out = walk.ops.scale(out, block.drop_path(walk.ones(1)))
    return walk.ops.add(out, x if block.downsample is None else walk.run(block.downsample, x))


def squeeze_excite(walk: _Walk, module: Any, x: Features) -> Features:
    """timm.layers.SEModule: the mean is taken over visible positions."""
    walk.check(module)
    squeezed = module.act(module.bn(module.fc1(walk.ops.mean(x, (2, 3)))))
    return walk.ops.scale(x, module.gate(module.fc2(squeezed)))


BLOCKS: dict[str, Callable[[_Walk, Any, Features], Features]] = {
    "timm.models.resnet.BasicBlock": basic_block,
    "timm.models.resnet.Bottleneck": bottleneck,
}


def known_part(module: nn.Module) -> bool:
    """Whether the walker can do the timm module, its parts aside."""
    name = class_name(type(module))
    if name == SQUEEZE_EXCITE:
        return not module.add_maxpool
    return name in (*BLOCKS, FEATURES, DROP_PATH)
