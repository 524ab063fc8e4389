"""Models Genesis: distort a crop and restore it (Zhou et al., MICCAI 2019; Medical Image Analysis 67:101840, 2021).

Shuffled voxels in small windows are meant to teach texture, a random intensity curve appearance, and painting context; the
distortions are in `nnssl.views.genesis`. The plans' whole U-Net answers; its encoder and decoder are the result.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from nnssl.losses import masked_mse
from nnssl.methods.augmentation import AugmentationConfig, augmented
from nnssl.methods.base import CropBatch, Exported, Losses, Method, MethodConfig, Optimisation, Views
from nnssl.networks import ReconstructionUNet
from nnssl.views import Geometry, moments, random_distortion


class ModelsGenesisConfig(AugmentationConfig):
    """Options of `-m models_genesis`."""

    p_curve: float = Field(0.9, ge=0, le=1, description="probability of a random intensity curve, per crop")
    p_shuffle: float = Field(0.5, ge=0, le=1, description="probability of shuffling voxels in small windows, per crop")
    p_paint: float = Field(0.9, ge=0, le=1, description="probability of painting, per crop")
    p_inner: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of painted crops with noise in boxes (in-painting); the others: around boxes",
    )


class ModelsGenesis(Method):
    """Restoration of distorted crops with the plans' whole U-Net."""

    name: ClassVar[str] = "models_genesis"
    Config: ClassVar[type[MethodConfig]] = ModelsGenesisConfig
    optimisation: ClassVar[Optimisation] = Optimisation(optimizer="adamw", lr=1e-3, weight_decay=3e-5)
    citation: ClassVar[str] = (
        "Zhou et al. 2021, Models Genesis, Medical Image Analysis 67:101840; "
        "Zhou et al. 2019, Models Genesis: generic autodidactic models for 3D medical image analysis, MICCAI"
    )
    crops_alone: ClassVar[bool] = True
    config: ModelsGenesisConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        self.network = ReconstructionUNet(unet, channels)

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """`target` and `distorted` (B, C, ...); `inside` (B, 1, ...) bool, part of the image.

        The distortions are the task and happen in validation too; mirroring, rotation and scaling are augmentation.
        """
        c = self.config
        target, inside = augmented(self, c, crops, generator)
        distorted = random_distortion(
            target,
            inside,
            self.geometry,
            generator,
            p_curve=c.p_curve,
            p_shuffle=c.p_shuffle,
            p_paint=c.p_paint,
            p_inner=c.p_inner,
        )
        return {"target": target, "distorted": distorted, "inside": inside}

    def forward(self, views: Views) -> Losses:
        """L2 between answer and crop on all voxels of the image; `input_mse` is the score of the input left as it is."""
        target, inside = views["target"], views["inside"]
        mse = masked_mse(self.network(views["distorted"]), target, inside, self.ranks)
        input_mse = masked_mse(views["distorted"], target, inside, self.ranks)
        return Losses(mse, {"mse": mse.detach(), "input_mse": input_mse})

    def exported(self) -> Exported:
        """Encoder and nnU-Net decoder of the plans; the 1x1 head is thrown away."""
        unet = self.network.unet
        return Exported(unet.encoder, unet.decoder)  # type: ignore[arg-type]

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """The crop, what the network saw, and its answer.

        Curves may move a whole crop off the grey scale of the pictures: what the network saw is shown with the crop's mean
        and standard deviation.
        """
        target, distorted, inside = views["target"], views["distorted"], views["inside"]
        mean, sd = moments(distorted, inside)
        crop_mean, crop_sd = moments(target, inside)
        levelled = torch.where(inside, crop_mean + (distorted - mean) / sd.clamp(min=1e-5) * crop_sd, 0.0)
        return {
            "crop": target,
            "shown to the network, levelled": levelled,
            "network output": self.network(distorted).float(),
        }
