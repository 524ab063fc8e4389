"""Next-slice prediction: look at slices and draw the one that comes a few slices later.

Tariq et al. 2024 (J. Med. Imaging 11:064003): one slice of chest CT in, the slice 1, 3 or 5 further out, L2. With 2D plans
that is what happens here. With 3D plans the crop's last slices are hidden and predicted from those before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from nnssl.errors import NnsslError
from nnssl.losses import masked_mse
from nnssl.methods.base import CropBatch, Exported, Losses, Method, MethodConfig, Optimisation, Views
from nnssl.networks import ReconstructionUNet
from nnssl.views import Geometry, inside_box, random_spatial

FEW_USED = 0.5


class NextSliceConfig(MethodConfig):
    """Options of `-m next_slice`."""

    gap: int = Field(1, ge=1, description="2D: how many slices further to look; 3D: how many slices to hide")
    p_flip: float = Field(0.5, ge=0, le=1, description="probability of mirroring, per axis of the slice")
    p_rotation: float = Field(0.2, ge=0, le=1, description="probability of a rotation in the slice, per crop")
    p_scaling: float = Field(0.2, ge=0, le=1, description="probability of scaling the slice by 0.7-1.4, per crop")


class NextSlice(Method):
    """Next-slice prediction with the plans' whole U-Net.

    Slices follow each other along the first axis of 2D plans' cases, and along the axis of largest spacing of 3D plans
    (the first of equals). They are never reversed: which way is on is part of the task.
    """

    name: ClassVar[str] = "next_slice"
    Config: ClassVar[type[MethodConfig]] = NextSliceConfig
    optimisation: ClassVar[Optimisation] = Optimisation(optimizer="adamw", lr=1e-3, weight_decay=3e-5)
    citation: ClassVar[str] = (
        "Tariq et al. 2024, Self-supervised learning for chest computed tomography, J. Med. Imaging 11:064003"
    )
    crops_alone: ClassVar[bool] = True
    config: NextSliceConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        size, spacing = geometry.patch_size, geometry.spacing
        self.two_d = geometry.dim == 2
        self.axis = 0 if self.two_d else spacing.index(max(spacing))
        if not self.two_d and self.config.gap >= size[self.axis]:
            raise NnsslError(
                f"gap={self.config.gap} hides every slice of the patch {list(size)}, slices being along axis {self.axis}: "
                f"use at most {size[self.axis] - 1}"
            )
        across = [a for a in range(geometry.dim) if self.two_d or a != self.axis]
        self.slice_geometry = Geometry(tuple(size[a] for a in across), tuple(spacing[a] for a in across))
        self.network = ReconstructionUNet(unet, channels)

    def read_size(self) -> tuple[int, ...]:
        """With 2D plans a stack that holds a slice and the one to predict; with 3D plans the patch."""
        patch = self.geometry.patch_size
        return (1 + self.config.gap, *patch) if self.two_d else patch

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """What is shown, what is wanted, and where it counts.

        `shown` and `target` (B, C, *patch); `scored` (B, 1, *patch) bool, empty for crops without the slices it takes;
        `last` (B, C, *patch) or, in 3D, (B, C, ..., 1, ...): the slice nearest to the hidden ones.
        """
        slices, inside = self._slices(crops, generator)  # (B, C, S, *slice), (B, 1, *slice)
        gap = self.config.gap
        begin, end = crops.inside[:, self.axis, :1], crops.inside[:, self.axis, 1:]  # (B, 1)
        usable = end - begin > gap
        if self.two_d:  # the stack holds just the slices it takes, so all of them must be image
            first, target = slices[:, :, 0], slices[:, :, -1]
            return {"shown": first, "target": target, "scored": inside & usable[..., None, None], "last": first}
        position = torch.arange(slices.shape[2], device=slices.device)
        before = position < end - gap  # (B, S)
        hidden = ~before & (position < end) & usable
        nearest = (end - gap - 1).clamp(min=0)[:, None, :, None, None].expand_as(slices[:, :, :1])
        views = {
            "shown": slices * before[:, None, :, None, None],
            "target": slices,
            "scored": inside[:, :, None] & hidden[:, None, :, None, None],
            "last": slices.gather(2, nearest),
        }
        return {name: view.movedim(2, self.axis + 2) for name, view in views.items()}

    def forward(self, views: Views) -> Losses:
        """L2 on the predicted slices; beside it the error of repeating the nearest slice, and the share of usable crops."""
        target, scored = views["target"], views["scored"]
        mse = masked_mse(self.network(views["shown"]), target, scored, self.ranks)
        used = scored.flatten(1).any(1).float()
        terms = {
            "mse": mse.detach(),
            "repeat_mse": masked_mse(views["last"], target, scored, self.ranks),
            "used": self.ranks.mean(used.sum(), torch.ones_like(used).sum()),
        }
        return Losses(mse, terms)

    def exported(self) -> Exported:
        """Encoder and nnU-Net decoder of the plans; the 1x1 head is thrown away."""
        unet = self.network.unet
        return Exported(unet.encoder, unet.decoder)  # type: ignore[arg-type]

    def health(self, row: Mapping[str, float]) -> list[str]:
        """Says so when most crops have too few slices."""
        used = row.get("val_used", 1.0)
        if used >= FEW_USED:
            return []
        return [f"only {used:.0%} of the crops hold gap + 1 = {self.config.gap + 1} slices: lower gap"]

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """The nearest slice shown, the farthest to predict, the answer; (B, C, *slice). Unused crops are hidden."""
        prediction = self.network(views["shown"]).float()
        target, last, scored = views["target"], views["last"], views["scored"]
        if not self.two_d:
            target, prediction, last, scored = (x.movedim(self.axis + 2, 2) for x in (target, prediction, last, scored))
            position = torch.arange(scored.shape[2], device=scored.device)
            farthest = (scored.flatten(3).any(3)[:, 0] * position).amax(1)
            row = torch.arange(len(farthest), device=scored.device)
            target, prediction, last = target[row, :, farthest], prediction[row, :, farthest], last[:, :, 0]
        used = scored.flatten(1).any(1)[:, None, None, None]
        further = "next slice" if self.config.gap == 1 else f"{self.config.gap} slices further"
        return {
            "last slice shown": last,
            further: torch.where(used, target, torch.nan),
            "network output": torch.where(used, prediction, torch.nan),
        }

    def _slices(self, crops: CropBatch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Slices (B, C, S, *slice) and image mask (B, 1, *slice), augmented in the plane of the slice, all slices alike."""
        slices = crops.images.movedim(self.axis + 2, 2)
        across = [a for a in range(crops.inside.shape[1]) if a != self.axis]
        box = torch.stack([crops.inside[:, a] for a in across], dim=1)  # an index of numbers would wait for the device
        inside = inside_box(box, self.slice_geometry.patch_size)
        if not self.training:
            return slices, inside
        c = self.config
        flat, inside = random_spatial(
            slices.flatten(1, 2),
            inside,
            self.slice_geometry,
            generator,
            p_flip=c.p_flip,
            p_rotation=c.p_rotation,
            p_scaling=c.p_scaling,
        )
        return flat.unflatten(1, slices.shape[1:3]), inside
