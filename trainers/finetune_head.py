"""Segmentation layers fitted to pretrained features before the first step of fine-tuning.

Random segmentation layers send random gradients into the pretrained network, and undo part of it before they are any
good themselves (linear probing, then fine-tuning: Kumar et al., ICLR 2022, arXiv 2202.10054). Each layer is a linear
map of one voxel's features, so its best weights on a few batches cost seconds: a convex fit, no training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOXELS_PER_BATCH = 20_000
"""Voxels kept per batch and layer: enough for a few dozen weights, and independent of the patch size."""

LEAST_PER_FEATURE = 10
"""Labelled voxels per feature below which a fit would learn them by heart; with scribbles a coarse layer may have none."""

BATCHES = 12
ITERATIONS = 60
RIDGE = 1e-4


@torch.no_grad()
def fit_heads(
    unet: Any, batches: Iterable[Mapping[str, Any]], device: torch.device, regions: bool, ignore: int | None
) -> list[float | None]:
    """Set every segmentation layer of a U-Net to the linear map that minimises cross-entropy + soft Dice loss.

    Args:
        unet: nnU-Net's network with `decoder.seg_layers`.
        batches: nnU-Net's training batches: `data` (b, c, *spatial) and `target`, per resolution (b, 1 or regions,
            *spatial), finest first, or one tensor without deep supervision.
        device: where the network is.
        regions: targets are one 0/1 channel per region instead of a label map.
        ignore: label without a loss.

    Returns:
        Soft Dice of the fit on its own voxels per layer, finest first; None: too few labelled voxels, left as it was.
    """
    layers = list(reversed(unet.decoder.seg_layers))  # nnU-Net's outputs and targets: finest first
    if not getattr(unet.decoder, "deep_supervision", False):
        layers = layers[:1]
    seen: dict[int, Tensor] = {}
    features: list[list[Tensor]] = [[] for _ in layers]
    answers: list[list[Tensor]] = [[] for _ in layers]
    with ExitStack() as hooks:
        for module in unet.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.training:
                hooks.callback(module.train)
                module.eval()
        for i, layer in enumerate(layers):
            hooks.callback(layer.register_forward_pre_hook(lambda _, inputs, i=i: seen.update({i: inputs[0]})).remove)
        for batch in batches:
            target = batch["target"]
            unet(batch["data"].to(device, non_blocking=True))
            for i, answer in enumerate(target if isinstance(target, list) else [target]):
                voxels, wanted = _sample(seen[i], answer.to(device), regions, ignore)
                features[i].append(voxels)
                answers[i].append(wanted)
    return [
        _fit(layer, torch.cat(x), torch.cat(y), regions) for layer, x, y in zip(layers, features, answers, strict=True)
    ]


def _sample(features: Tensor, target: Tensor, regions: bool, ignore: int | None) -> tuple[Tensor, Tensor]:
    """Features (n, c) and answers (n, classes or regions) of evenly spaced voxels that have a label."""
    x = features.float().movedim(1, -1).flatten(0, -2)
    y = target.movedim(1, -1).flatten(0, -2)
    if ignore is not None:
        # with regions nnU-Net marks what to ignore in a last channel of its own
        known = y[:, -1] == 0 if regions else y[:, 0] != ignore
        x, y = x[known], (y[known][:, :-1] if regions else y[known])
    step = max(1, len(x) // VOXELS_PER_BATCH)
    return x[::step], y[::step]


def _fit(layer: nn.Module, x: Tensor, y: Tensor, regions: bool) -> float | None:
    """Minimise over standardised features, write the answer into the layer."""
    if len(x) < LEAST_PER_FEATURE * x.shape[1]:
        return None
    weight: Tensor = layer.weight  # type: ignore[assignment]
    bias: Tensor = layer.bias  # type: ignore[assignment]
    classes = weight.shape[0]
    wanted = y.float() if regions else F.one_hot(y[:, 0].long(), classes).float()
    mean, std = x.mean(0), x.std(0).clamp(min=1e-5)
    x = (x - mean) / std
    solution = torch.zeros(classes, x.shape[1] + 1, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([solution], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = _loss(x @ solution[:, :-1].T + solution[:, -1], wanted, regions)[0]
        value = value + RIDGE * solution[:, :-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    scaled = solution.detach()[:, :-1] / std
    if not bool(torch.isfinite(solution).all()):
        return None
    weight.copy_(scaled.reshape(weight.shape))
    bias.copy_(solution.detach()[:, -1] - scaled @ mean)
    return float(_loss(x @ solution.detach()[:, :-1].T + solution.detach()[:, -1], wanted, regions)[1])


def _loss(logits: Tensor, wanted: Tensor, regions: bool) -> tuple[Tensor, Tensor]:
    """Cross-entropy plus soft Dice loss over all voxels, as nnU-Net's loss, and the soft Dice alone."""
    if regions:
        p, entropy = logits.sigmoid(), F.binary_cross_entropy_with_logits(logits, wanted)
    else:
        p, entropy = logits.softmax(1)[:, 1:], F.cross_entropy(logits, wanted)
        wanted = wanted[:, 1:]
    dice = ((2 * (p * wanted).sum(0) + 1e-5) / (p.sum(0) + wanted.sum(0) + 1e-5)).mean()
    return entropy - dice, dice
