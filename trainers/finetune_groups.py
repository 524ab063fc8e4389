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


def layered_groups(unet: nn.Module, decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups: the decoder at the full rate, each encoder stage at `decay` times the rate of the next one.

    Args:
        unet: nnU-Net's network; its decoder holds a reference to the encoder.
        decay: in (0, 1]; 1 gives one group.
        weight_decay: of all groups.

    Returns:
        Groups with an entry `lr_scale`; the decoder's first, because nnU-Net logs the first one's rate.
    """
    if decay == 1:
        return [{"params": list(unet.parameters()), "weight_decay": weight_decay, "lr_scale": 1.0}]
    stages = stage_depths(unet.encoder)  # type: ignore[arg-type]
    of_encoder = {id(p) for stage in stages for p in stage}
    decoder = [p for p in unet.parameters() if id(p) not in of_encoder]
    groups = [{"params": decoder, "weight_decay": weight_decay, "lr_scale": 1.0}]
    for distance, stage in enumerate(reversed(stages), start=1):
        groups.append({"params": stage, "weight_decay": weight_decay, "lr_scale": decay**distance})
    return groups


def frozen_part(unet: nn.Module, stages: int) -> tuple[list[nn.Parameter], list[nn.Module]]:
    """Parameters and modules of the stem and the first `stages` encoder stages; nothing for 0."""
    if not stages:
        return [], []
    encoder: Any = unet.encoder
    first = list(encoder.stages)[:stages]
    modules = [*([encoder.stem] if getattr(encoder, "stem", None) is not None else []), *first]
    return [p for stage in stage_depths(encoder)[:stages] for p in stage], modules
