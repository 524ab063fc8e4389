"""Which parameters learn how fast in fine-tuning: depth from the input decides."""

from __future__ import annotations

from typing import Any

from torch import nn


def stage_depths(encoder: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters of each encoder stage, from the input; the stem belongs to the first."""
    stages = [list(stage.parameters()) for stage in encoder.stages]  # type: ignore[union-attr]
    known = {id(p) for stage in stages for p in stage}
    stem = [p for p in encoder.parameters() if id(p) not in known]
    return [[*stem, *stages[0]], *stages[1:]]


def layered_groups(
    unet: nn.Module, decay: float, weight_decay: float, new_lr: float = 1.0, new_decoder: bool = False
) -> list[dict[str, Any]]:
    """Optimiser groups: the decoder at the full rate, each encoder stage at `decay` times the rate of the next one.

    Args:
        unet: nnU-Net's network; its decoder holds a reference to the encoder.
        decay: in (0, 1].
        weight_decay: of all groups.
        new_lr: factor on the rate of what is not pretrained: segmentation layers, and the decoder if it is new.
        new_decoder: whether the whole decoder is new.

    Returns:
        Groups with an entry `lr_scale`. The full rate's comes first, because nnU-Net logs the first one's. Parameters of
        one rate are one group.
    """
    scale = {id(p): 1.0 for p in unet.parameters()}
    if decay != 1:
        for distance, stage in enumerate(reversed(stage_depths(unet.encoder)), start=1):  # type: ignore[arg-type]
            scale |= {id(p): decay**distance for p in stage}
    if new_lr != 1:
        of_encoder = {id(p) for p in unet.encoder.parameters()}  # type: ignore[union-attr]
        new = unet.decoder if new_decoder else unet.decoder.seg_layers  # type: ignore[union-attr]
        scale |= {id(p): new_lr for p in new.parameters() if id(p) not in of_encoder}  # type: ignore[union-attr]
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in unet.parameters():
        groups.setdefault(scale[id(parameter)], []).append(parameter)
    ordered = sorted(groups, key=lambda s: (s != 1.0, -s))
    return [{"params": groups[s], "weight_decay": weight_decay, "lr_scale": s} for s in ordered if groups[s]]


def frozen_part(unet: nn.Module, stages: int) -> tuple[list[nn.Parameter], list[nn.Module]]:
    """Parameters and modules of the stem and the first `stages` encoder stages; nothing for 0."""
    if not stages:
        return [], []
    encoder: Any = unet.encoder
    first = list(encoder.stages)[:stages]
    modules = [*([encoder.stem] if getattr(encoder, "stem", None) is not None else []), *first]
    return [p for stage in stage_depths(encoder)[:stages] for p in stage], modules
