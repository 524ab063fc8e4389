"""A 2D U-Net whose encoder is a backbone of timm, for nnU-Net's trainers and our methods.

Everything in the encoder is timm's, so that its weights cover it completely. Backbones begin at a half or a quarter of
the resolution; as skip of the full resolution the decoder gets the image itself, and its last stage has two convolutions
to make something of it. The usual U-Net on a ResNet (Kalapos and Gyires-Tóth 2022) upsamples without that skip.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import nn

from nnssl.errors import NnsslError
from nnssl.networks.timm_backbone import channels_last, create_backbone, reductions, strides_of, widths
from nnssl.networks.unet import total_stride

NEGATIVE_SLOPE = 1e-2
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""What counts for the size of a network, as nnU-Net counts: the results of convolutions."""


class TimmEncoder(nn.Module):
    """A timm backbone in the form of nnU-Net's encoders.

    Args:
        backbone: name of the timm model.
        channels: image channels.
        options: see `nnssl.networks.timm_backbone.create_backbone`.
        norm_op, norm_op_kwargs, nonlin, nonlin_kwargs: of what is built around the encoder.

    Attributes:
        backbone: the timm model.
        output_channels: per scale; the first scale is the image, unless the backbone has a map of full resolution.
        strides: per scale, [[1, 1], ...].
        norm_op: the kind of norm in the backbone, if it is batch norm; else that of the decoder.
    """

    def __init__(
        self,
        backbone: str,
        channels: int,
        options: Mapping[str, Any] | None,
        norm_op: type[nn.Module],
        norm_op_kwargs: Mapping[str, Any],
        nonlin: type[nn.Module],
        nonlin_kwargs: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.backbone = create_backbone(backbone, channels, options)
        self.shows_image = reductions(self.backbone)[0] > 1
        self.output_channels = ([channels] if self.shows_image else []) + widths(self.backbone)
        self.strides = strides_of(self.backbone)
        self.input_channels = channels
        self.kernel_sizes = [[3, 3] for _ in self.strides]
        batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.backbone.modules())
        self.norm_op: type[nn.Module] = nn.BatchNorm2d if batch_norm else norm_op
        self.norm_op_kwargs = {"eps": 1e-5, "affine": True} if batch_norm else dict(norm_op_kwargs)
        self.nonlin, self.nonlin_kwargs = nonlin, dict(nonlin_kwargs)
        self.conv_op, self.conv_bias = nn.Conv2d, True
        self.dropout_op, self.dropout_op_kwargs = None, None
        self._last = channels_last(self.backbone)
        fixed = (options or {}).get("img_size")
        smallest = [2 * s for s in total_stride(self)] if fixed is None else fixed
        self._size = (smallest, smallest) if isinstance(smallest, int) else tuple(smallest)
        self._check_maps(backbone)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, C, Y, X), a multiple of the total stride, to one map per scale, highest resolution first."""
        stride = total_stride(self)
        if any(n % s for n, s in zip(x.shape[2:], stride)):
            raise NnsslError(
                f"an image of {list(x.shape[2:])} pixels cannot be divided by the encoder's total stride "
                f"{list(stride)}: plan with a patch size that is a multiple of it"
            )
        maps = self.backbone(x)
        if self._last:
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        return [x, *maps] if self.shows_image else list(maps)

    @property
    def stages(self) -> list[nn.ModuleList]:
        """The layers of each stage of the backbone: those that the stage's map is the first to depend on.

        Asked of autograd rather than of the names, which differ between timm's model families.
        """
        found = self.stage_of_parameters()
        stages = [nn.ModuleList() for _ in widths(self.backbone)]
        for path, module in self.backbone.named_modules():
            own = dict(module.named_parameters(recurse=False))
            if own:
                number = found[".".join(filter(None, (path, next(iter(own)))))]
                whole = sum(1 for _ in module.parameters()) == len(own)
                stages[number].append(module if whole else nn.ParameterList(own.values()))
        return stages

    def stage_of_parameters(self) -> dict[str, int]:
        """Stage of the backbone by name of the parameter; one that no map depends on belongs to the last."""
        twin = _without_data(self.backbone)
        names, parameters = zip(*((n, p.requires_grad_()) for n, p in twin.named_parameters()))
        stage = dict.fromkeys(names, len(widths(twin)) - 1)
        open_names = set(names)
        for number, feature in enumerate(twin(self._probe())):
            for name, grad in zip(names, torch.autograd.grad(feature.sum(), parameters, None, True, allow_unused=True)):
                if grad is not None and name in open_names:
                    stage[name] = number
                    open_names.remove(name)
        return stage

    def _probe(self) -> torch.Tensor:
        """A small image without data."""
        return torch.empty(1, self.input_channels, *self._size, device="meta")

    def _check_maps(self, name: str) -> None:
        """Refuse a backbone whose maps are not as large as it says (such as those with unpadded convolutions)."""
        size = self._size
        try:
            with torch.no_grad():
                maps = _without_data(self)(self._probe())
        except (
            RuntimeError,
            AssertionError,
            ValueError,
        ) as error:  # a transformer that takes one size only, and the like
            raise NnsslError(
                f"'{name}' cannot take an image of {size[0]}x{size[1]} ({' '.join(str(error).split())[:150]}); it may need "
                'backbone_kwargs such as {"img_size": [256, 224]} in the plans, the patch size'
            ) from error
        edges = [list(size)]
        for stride in self.strides[1:]:
            edges.append([n // s for n, s in zip(edges[-1], stride)])
        found = [list(m.shape[1:]) for m in maps]
        wanted = [[c, *edge] for c, edge in zip(self.output_channels, edges)]
        if found != wanted:
            raise NnsslError(
                f"'{name}' makes feature maps of {found} where {wanted} are needed to put a decoder on them: choose another "
                "backbone, such as resnet50 or convnext_tiny"
            )


class TimmDecoder(nn.Module):
    """nnU-Net's decoder with widths of its own: transposed convolution, concatenation with the skip, convolutions.

    Args:
        encoder: for its widths and strides; it is not kept.
        num_classes: channels of the segmentation layers.
        features: channels of each stage, highest resolution first.
        convs: convolutions per stage, deepest first as in nnU-Net's plans.
        deep_supervision: return an output per stage.
        norm_op, norm_op_kwargs, nonlin, nonlin_kwargs: of the convolutions.
    """

    def __init__(
        self,
        encoder: TimmEncoder,
        num_classes: int,
        features: Sequence[int],
        convs: Sequence[int],
        deep_supervision: bool,
        norm_op: type[nn.Module],
        norm_op_kwargs: Mapping[str, Any],
        nonlin: type[nn.Module],
        nonlin_kwargs: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.num_classes = num_classes
        transpconvs, stages, seg_layers = [], [], []
        below = encoder.output_channels[-1]
        for depth, number in zip(reversed(range(len(encoder.strides) - 1)), convs):
            (y, x), width = encoder.strides[depth + 1], features[depth]
            transpconvs.append(nn.ConvTranspose2d(below, width, (y, x), (y, x)))
            stages.append(
                StackedConvBlocks(
                    num_convs=number,
                    conv_op=nn.Conv2d,
                    input_channels=width + encoder.output_channels[depth],
                    output_channels=width,
                    kernel_size=3,
                    initial_stride=1,
                    conv_bias=True,
                    norm_op=norm_op,
                    norm_op_kwargs=dict(norm_op_kwargs),
                    nonlin=nonlin,
                    nonlin_kwargs=dict(nonlin_kwargs),
                )
            )
            seg_layers.append(nn.Conv2d(width, num_classes, 1))
            below = width
        self.transpconvs, self.stages = nn.ModuleList(transpconvs), nn.ModuleList(stages)
        self.seg_layers = nn.ModuleList(seg_layers)
        self.apply(InitWeights_He(NEGATIVE_SLOPE))

    def forward(self, skips: Sequence[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
        """Maps of the encoder, highest resolution first, to logits; with deep supervision a list, the largest first."""
        x, outputs = skips[-1], []
        for s, (upsample, stage) in enumerate(zip(self.transpconvs, self.stages)):
            x = stage(torch.cat((upsample(x), skips[-(s + 2)]), 1))
            if self.deep_supervision or s == len(self.stages) - 1:
                outputs.append(self.seg_layers[s](x))
        return outputs[::-1] if self.deep_supervision else outputs[-1]


class TimmUNet(nn.Module):
    """A timm backbone with an nnU-Net decoder, for `network_class_name` in plans.

    Args:
        input_channels: image channels.
        num_classes: channels of the output.
        backbone: name of a timm model with a feature pyramid. Its weights are never downloaded here.
        strides: per scale, as nnU-Net wants them in the plans for its deep supervision; must be the backbone's.
        features_per_stage: channels of the decoder's stages, highest resolution first, then of the deepest map.
        n_conv_per_stage_decoder: convolutions per decoder stage, deepest first.
        norm_op, norm_op_kwargs, nonlin, nonlin_kwargs: of the decoder; default: nnU-Net's.
        deep_supervision: return an output per scale, the largest first.
        n_stages: number of scales; stands in the plans for a reader, and must fit.
        backbone_kwargs: see `nnssl.networks.timm_backbone.create_backbone`.

    Raises:
        NnsslError: no such backbone, no feature pyramid, or numbers that are not the backbone's.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        backbone: str,
        strides: Sequence[Sequence[int]],
        features_per_stage: Sequence[int],
        n_conv_per_stage_decoder: int | Sequence[int] = 2,
        norm_op: type[nn.Module] = nn.InstanceNorm2d,
        norm_op_kwargs: Mapping[str, Any] | None = None,
        nonlin: type[nn.Module] = nn.LeakyReLU,
        nonlin_kwargs: Mapping[str, Any] | None = None,
        deep_supervision: bool = False,
        n_stages: int | None = None,
        backbone_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        norm_op_kwargs = {"eps": 1e-5, "affine": True} if norm_op_kwargs is None else norm_op_kwargs
        nonlin_kwargs = {"inplace": True} if nonlin_kwargs is None else nonlin_kwargs
        around = (norm_op, norm_op_kwargs, nonlin, nonlin_kwargs)
        self.encoder = TimmEncoder(backbone, input_channels, backbone_kwargs, *around)
        scales = len(self.encoder.strides)
        given = [[int(n) for n in s] for s in strides]
        if given != self.encoder.strides or n_stages not in (None, scales):
            raise NnsslError(
                f"the plans say strides {given} for the backbone '{backbone}', which has {self.encoder.strides}: put these "
                "into arch_kwargs, or plan with nnssl_plan_and_preprocess --encoder"
            )
        if len(features_per_stage) != scales or features_per_stage[-1] != self.encoder.output_channels[-1]:
            raise NnsslError(
                f"features_per_stage {list(features_per_stage)} must have {scales} numbers, the last of them "
                f"{self.encoder.output_channels[-1]}, the width of the deepest map of '{backbone}'"
            )
        convs = n_conv_per_stage_decoder
        convs = [convs] * (scales - 1) if isinstance(convs, int) else list(convs)
        if len(convs) != scales - 1:
            raise NnsslError(f"n_conv_per_stage_decoder {convs} must have {scales - 1} numbers")
        self.decoder = TimmDecoder(self.encoder, num_classes, features_per_stage, convs, deep_supervision, *around)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """(B, C, Y, X) to logits (B, classes, Y, X), or with deep supervision one per scale."""
        return self.decoder(self.encoder(x))

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """nnU-Net's measure of memory: values in the results of all convolutions and linear layers for one image."""
        twin = _without_data(self)
        total = 0

        def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            nonlocal total
            total += output.numel()

        _each_layer(twin, lambda layer: layer.register_forward_hook(count))
        with torch.no_grad():
            twin(torch.empty(1, self.encoder.input_channels, *(int(n) for n in input_size), device="meta"))
        return total


def _each_layer(network: nn.Module, do: Callable[[nn.Module], Any]) -> None:
    for module in network.modules():
        if isinstance(module, LAYERS):
            do(module)


def _without_data(network: nn.Module) -> Any:
    """A copy that computes shapes and dependencies only, in no time and no memory; in eval mode."""
    return copy.deepcopy(network).to("meta").eval()
