"""What ibot and smit share: views with hidden blocks, and a teacher's assignment as the target at hidden positions.

Zhou et al. 2022, iBOT (ICLR, arXiv 2111.07832). A transformer has tokens to hide; here blocks of voxels are hidden behind
a learned token, each one or several positions of the encoder's deepest stage, and these positions are what is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from nnssl.losses.distillation import position_distillation, sharpen
from nnssl.losses.usage import Usage, assignment_sums
from nnssl.methods.base import CropBatch, MethodConfig, Views
from nnssl.methods.masking import block_edges
from nnssl.methods.self_distillation import PrototypeHead, SelfDistillation, SelfDistillationConfig
from nnssl.networks import check_grid, total_stride
from nnssl.networks.mask_token import MaskToken
from nnssl.networks.momentum import MomentumCopy
from nnssl.networks.running import RunningMean, RunningNorm
from nnssl.views import Geometry, expand_blocks, random_block_mask


class MaskedDistillationConfig(SelfDistillationConfig):
    """Options of ibot and smit."""

    mask_ratio: float = Field(0.3, gt=0, lt=1, description="share of blocks to hide from the student")
    block: int | list[int] | None = Field(
        None,
        description="block edge in voxels, a multiple of the encoder's total stride (the default), one or per axis",
    )
    shared_head: bool = Field(True, description="one head and one set of prototypes for whole crops and for positions")
    global_weight: float = Field(1.0, ge=0, description="weight of the loss between whole views")
    patch_weight: float = Field(1.0, ge=0, description="weight of the loss at hidden positions")


class MaskedDistillation(SelfDistillation):
    """Base of ibot and smit: hides blocks and compares hidden positions. Subclasses write `forward`."""

    config: MaskedDistillationConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        c = self.config
        encoder: Any = self.backbone.encoder
        size, self.stride = geometry.patch_size, total_stride(encoder)
        check_grid(encoder, size, [n // s for n, s in zip(size, self.stride)])
        self.block = block_edges(c.block, size, self.stride, whole_strides=True)
        self.grid = tuple(n // b for n, b in zip(size, self.block))
        self.token = MaskToken(channels, self.block)
        self.patch_head: PrototypeHead | None = None
        self.patch_teacher_head: MomentumCopy | None = None
        if not c.shared_head:
            self.patch_head = PrototypeHead(self.backbone.width, c)
            self.patch_teacher_head = MomentumCopy(self.patch_head)
        self.patch_norm = RunningNorm(self.backbone.width) if c.feature_norm == "running" else None
        self.patch_centre = RunningMean(torch.zeros(c.prototypes), c.centre_momentum)
        self._patch_usage = Usage(c.prototypes, "patch_")

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """For k = 1, 2: `view_k` (B, C, *patch), `inside_k` (B, 1, *patch) bool, part of the image, and `visible_k`
        (B, 1, *grid) bool, the blocks that the student sees."""
        made = {}
        for k, source in enumerate((crops, crops.partner or crops), start=1):
            view, inside = self._view(source, generator)
            made[f"view_{k}"] = view
            made[f"inside_{k}"] = inside
            made[f"visible_{k}"] = random_block_mask(
                len(view), self.grid, self.config.mask_ratio, generator, view.device
            )
        return made

    def shown(self, views: Views) -> list[torch.Tensor]:
        """The two views as the student sees them, hidden blocks replaced by the token."""
        return [self.token(views[f"view_{k}"], views[f"visible_{k}"]) for k in (1, 2)]

    def patch_loss(
        self, views: Views, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Cross-entropy at hidden positions between the two networks' answers to one and the same view.

        Args:
            views: as `views` makes them.
            student, teacher: feature maps of both views, (b, F, *positions) each.
        """
        c = self.config
        head, teacher_head = self.patch_head or self.head, self.patch_teacher_head or self.teacher_head
        inside = torch.cat([image_share(views[f"inside_{k}"], self.stride) for k in (1, 2)])
        visible = torch.cat([views["visible_1"], views["visible_2"]])
        hidden = ~expand_blocks(visible, [b // s for b, s in zip(self.block, self.stride)]).flatten(1)
        x, y = self._positions(student), self._positions(teacher)
        norm = self.patch_norm or nn.Identity()
        _, scores = head(norm(x), self.frozen)
        _, answers = teacher_head(norm(y))
        targets = sharpen(answers, self.patch_centre.value, self.temperature)
        self._note(y, answers, targets, inside)
        return position_distillation(scores, targets, inside * hidden, c.student_temperature, self.ranks)

    def teachers(self) -> list[tuple[MomentumCopy, nn.Module]]:
        """With the positions' own head, if they have one."""
        own = self.patch_head is not None and self.patch_teacher_head is not None
        return super().teachers() + ([(self.patch_teacher_head, self.patch_head)] if own else [])  # type: ignore[list-item]

    def diagnostics(self) -> dict[str, float]:
        """With the usage of prototypes by positions."""
        return {**super().diagnostics(), **self._patch_usage.metrics()}

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """Each view, and what the student saw of it; small views last."""
        pictures = super().preview(views)
        for k in (1, 2):
            seen = expand_blocks(views[f"visible_{k}"], self.block)
            pictures[f"view {k}, student"] = torch.where(seen, views[f"view_{k}"], torch.nan)
        return dict(sorted(pictures.items(), key=lambda item: (item[0].startswith("local"), item[0])))

    def _positions(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Feature maps (b, F, *grid) of both views to (2b, P, width) float32, what pooling makes of a single position."""
        rows = torch.cat(list(maps)).float().flatten(2).transpose(1, 2)
        return torch.cat([rows, rows], dim=-1) if self.config.pooling == "avgmax" else rows

    def _note(self, y: torch.Tensor, answers: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor) -> None:
        """For running means and diagnostics: what the teacher made of all positions of the image, hidden or not.

        Args:
            y: (2b, P, width) the teacher's features.
            answers, targets: (2b, P, K) its scores and distributions.
            weight: (2b, P) share of image.
        """
        if not self.training:
            self._patch_usage.add(self._per_crop(assignment_sums(targets, weight)))
            return
        noted = torch.cat([y, y.square(), answers, torch.ones_like(y[..., :1])], dim=-1)
        sums = self._per_crop((noted * weight[..., None]).sum(1)).sum(0)
        moments, scores = (sums[:-1] / sums[-1].clamp(min=1e-6)).split([2 * y.shape[-1], answers.shape[-1]])
        self.patch_centre.see(scores)
        if self.patch_norm is not None:
            self.patch_norm.moments.see(moments)

    def _per_crop(self, rows: torch.Tensor) -> torch.Tensor:
        """(2b, N), view 1 before view 2, to (B, N): the views of a crop added up, crops of all processes."""
        return self.ranks.gather(torch.add(*rows.chunk(2)))


def image_share(inside: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """Share of the voxels below each position of the deepest stage that belong to the image.

    Args:
        inside: (B, 1, *spatial) bool, True = image.
        stride: voxels per position and axis.

    Returns:
        (B, P) float32, positions in the order in which a feature map is flattened.
    """
    average = F.avg_pool2d if len(stride) == 2 else F.avg_pool3d
    return average(inside.float(), list(stride)).flatten(1)
