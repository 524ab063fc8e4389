"""What joint-embedding methods share: two views of a crop, pooled features, and numbers that show a collapse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from nnssl.losses.collapse import effective_rank, embedding_std, knn_agreement
from nnssl.methods.base import CropBatch, Method, MethodConfig, Views
from nnssl.networks import PooledEncoder, Pooling, total_stride
from nnssl.views import Geometry, random_intensity, random_resized_crop, small_size

COLLAPSED_STD, COLLAPSED_RANK = 0.1, 1.5
RANK_ROWS = 8
"""Fewer embeddings cannot have a rank worth a warning: it is at most their number less one."""
WATCHED_ROWS = 512
"""Embeddings kept for the collapse metrics; more would only cost memory."""


class JointEmbeddingConfig(MethodConfig):
    """Options of every joint-embedding method: how a view is made, and from what."""

    crop_share: tuple[float, float] = Field(
        (0.3, 1.0), description="range of a view's volume (2D: area) relative to the crop it is cut from"
    )
    p_flip: float = Field(0.5, ge=0, le=1, description="probability of mirroring, per axis")
    p_rotation: float = Field(0.2, ge=0, le=1, description="probability of a rotation, per view")
    p_intensity: float = Field(0.5, ge=0, le=1, description="probability of each change of brightness, contrast, gamma")
    p_noise: float = Field(0.2, ge=0, le=1, description="probability of Gaussian noise, per view")
    p_blur: float = Field(0.2, ge=0, le=1, description="probability of Gaussian blur, per view")
    pooling: Pooling = Field("avgmax", description="of the deepest stage: mean, maximum, or both side by side")
    positives: Literal["crop", "subject"] = Field(
        "crop",
        description="crop: two views of one crop; subject: the second view shows the same place in another scan or frame "
        "of the same subject, where the pool knows one",
    )

    @model_validator(mode="after")
    def _ordered(self) -> JointEmbeddingConfig:
        _check_share("crop_share", self.crop_share)
        return self


class MultiCropConfig(JointEmbeddingConfig):
    """Options of methods that also look at small views (Caron et al. 2020, SwAV)."""

    n_local: int = Field(4, ge=0, le=16, description="small views per crop, which only the student sees")
    local_edge: float = Field(0.5, gt=0, le=1, description="edge of a small view relative to the patch")
    local_share: tuple[float, float] = Field(
        (0.05, 0.3), description="range of a small view's volume (2D: area) relative to the crop it is cut from"
    )

    @model_validator(mode="after")
    def _local_ordered(self) -> MultiCropConfig:
        _check_share("local_share", self.local_share)
        return self


def _check_share(name: str, share: tuple[float, float]) -> None:
    if not 0 < share[0] <= share[1] <= 1:
        raise ValueError(f"{name} needs two numbers, 0 < smallest <= largest <= 1")


class JointEmbedding(Method):
    """Base of methods that pull views of one crop together. Subclasses write `forward` and `exported`."""

    config: JointEmbeddingConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        self.backbone = PooledEncoder(unet.encoder, self.config.pooling)  # type: ignore[arg-type]
        self._watched: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def wants_partner(self) -> bool:
        """With positives=subject."""
        return self.config.positives == "subject"

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """`view_1`, `view_2` (B, C, *patch) and `case` (B,).

        The views are random in validation too: telling them apart is the task, and the generator makes them the same ones
        every time.
        """
        second = crops.partner or crops
        return {
            "view_1": self._view(crops, generator)[0],
            "view_2": self._view(second, generator)[0],
            "case": crops.case,
        }

    def _local_views(self, crops: CropBatch, generator: torch.Generator, config: MultiCropConfig) -> Views:
        """`local_1` ... `local_n` (B, C, *small): small views, in turn from either source of the two large ones."""
        size = small_size(self.geometry, total_stride(self.backbone.encoder), config.local_edge)
        sources = (crops, crops.partner or crops)
        return {
            f"local_{k + 1}": self._view(sources[k % 2], generator, size, config.local_share)[0]
            for k in range(config.n_local)
        }

    def _view(
        self,
        crops: CropBatch,
        generator: torch.Generator,
        size: tuple[int, ...] | None = None,
        share: tuple[float, float] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One random view of every crop, (B, C, *size), and its image mask (B, 1, *size) bool."""
        c = self.config
        x, inside = random_resized_crop(
            crops.images,
            crops.inside,
            self.geometry,
            generator,
            size=size or self.geometry.patch_size,
            share=share or c.crop_share,
            p_flip=c.p_flip,
            p_rotation=c.p_rotation,
        )
        x = random_intensity(
            x, inside, generator, p=c.p_intensity, p_noise=c.p_noise, p_blur=c.p_blur, geometry=self.geometry
        )
        return x, inside

    def _watch(self, z1: torch.Tensor, z2: torch.Tensor) -> None:
        """Keep the validation's embeddings for `diagnostics`.

        Args:
            z1, z2: (B, D) embeddings of both views, of all processes.
        """
        if not self.training and sum(len(a) for a, _ in self._watched) < WATCHED_ROWS:
            self._watched.append((z1.detach().float(), z2.detach().float()))

    def diagnostics(self) -> dict[str, float]:
        """Collapse metrics of the last validation's embeddings, see `nnssl.losses.collapse`."""
        if not self._watched:
            return {}
        z1, z2 = (torch.cat(parts) for parts in zip(*self._watched))
        self._watched = []
        if len(z1) < 2:
            return {}
        found = {"embedding_std": embedding_std(z1), "knn_agreement": knn_agreement(z1, z2)}
        if len(z1) >= RANK_ROWS:
            found["effective_rank"] = effective_rank(z1)
        return found

    def health(self, row: Mapping[str, float]) -> list[str]:
        """Says so when the embeddings have become one point or one line."""
        found = []
        if row.get("embedding_std", 1.0) < COLLAPSED_STD:
            found.append(
                f"the embeddings have collapsed to a point (embedding_std {row['embedding_std']:.3f}, healthy is about 1): "
                "try a lower --lr, or another method; the encoder may be useless"
            )
        elif row.get("effective_rank", 9.0) < COLLAPSED_RANK:
            found.append(
                f"the embeddings lie on a line (effective_rank {row['effective_rank']:.2f}): dimensional collapse; try a "
                "lower --lr, a larger --batch-size, or another method"
            )
        return found

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """The two views, then small ones."""
        small = sorted((k for k in views if k.startswith("local_")), key=lambda k: int(k.removeprefix("local_")))
        return {k.replace("_", " "): views[k] for k in ("view_1", "view_2", *small)}


def few_negatives(batch_size: int, needed: int = 8) -> list[str]:
    """A warning for methods whose only negatives are the other crops of the batch."""
    if batch_size >= needed:
        return []
    return [
        f"batch size {batch_size} gives each view only {2 * (batch_size - 1)} negatives: raise --batch-size, or use moco "
        "(its queue does not depend on the batch), byol or simsiam (no negatives)"
    ]
