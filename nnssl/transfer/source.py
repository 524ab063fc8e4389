"""Pretrained weights in one form, whatever file they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from nnssl.errors import NnsslError


@dataclass(frozen=True)
class Pretraining:
    """What is known of the images that the weights were trained on; None or empty = not known.

    Attributes:
        spacing: (Z, Y, X) or (Y, X) in mm.
        patch_size: voxels.
        normalization: nnU-Net's scheme per channel.
        channel_names: per channel.
        intensity: nnU-Net's intensity properties per channel, for CT.
        orientation: three letters of most cases.
    """

    spacing: tuple[float, ...] | None = None
    patch_size: tuple[int, ...] | None = None
    normalization: tuple[str, ...] = ()
    channel_names: tuple[str, ...] = ()
    intensity: Mapping[str, Any] = field(default_factory=dict)
    orientation: str | None = None


@dataclass(frozen=True)
class Weights:
    """Pretrained weights of a network that nnU-Net knows.

    Attributes:
        kind: what the file is, in words for the report.
        tensors: under nnU-Net's names (`encoder.*`, `decoder.*`), first names only, on the CPU.
        architecture: `network_class_name` and `arch_kwargs` as plans have them; None when the file does not say.
        channels: image channels.
        pretraining: what is known of the images.
        provenance, citations: of our own files.
        notes: what the reader had to decide or leave out, one sentence each; for the report.
    """

    kind: str
    tensors: Mapping[str, torch.Tensor]
    architecture: Mapping[str, Any] | None
    channels: int
    pretraining: Pretraining = field(default_factory=Pretraining)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    citations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def has_decoder(self) -> bool:
        """Whether there are weights of nnU-Net's decoder."""
        return any(k.startswith("decoder.") for k in self.tensors)

    @property
    def residual(self) -> bool:
        """Whether the encoder is made of residual blocks."""
        return any(k.startswith("encoder.stages.0.blocks.") for k in self.tensors)

    @property
    def stages(self) -> int:
        """Encoder stages."""
        numbers = {int(k.split(".")[2]) for k in self.tensors if k.startswith("encoder.stages.")}
        if not numbers:
            raise NnsslError(f"{self.kind}: no encoder stages under nnU-Net's names")
        return max(numbers) + 1
