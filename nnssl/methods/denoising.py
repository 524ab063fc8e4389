"""Denoising: disturb a crop and predict the undisturbed one.

Vincent et al. 2008 (ICML); with salt-and-pepper noise one of the five tasks of Tariq et al. 2024 (J. Med. Imaging
11:064003).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from nnssl.losses import masked_mse
from nnssl.methods.augmentation import AugmentationConfig, augmented
from nnssl.methods.base import CropBatch, Exported, Losses, Method, MethodConfig, Optimisation, Views
from nnssl.networks import ReconstructionUNet
from nnssl.views import Geometry
from nnssl.views.noise import gaussian_noise, salt_and_pepper


class DenoisingConfig(AugmentationConfig):
    """Options of `-m denoising`."""

    noise: Literal["salt_and_pepper", "gaussian", "both"] = Field(
        "salt_and_pepper",
        description="voxels set to the crop's extremes, noise added to all voxels, or one after the other",
    )
    share: float = Field(0.1, gt=0, lt=1, description="share of voxels that salt and pepper replace, half each")
    sigma: float = Field(
        0.5, gt=0, description="standard deviation of Gaussian noise, in units of the normalised image"
    )


class Denoising(Method):
    """Denoising autoencoder with the plans' whole U-Net."""

    name: ClassVar[str] = "denoising"
    Config: ClassVar[type[MethodConfig]] = DenoisingConfig
    optimisation: ClassVar[Optimisation] = Optimisation(optimizer="adamw", lr=1e-3, weight_decay=3e-5)
    citation: ClassVar[str] = (
        "Vincent et al. 2008, Extracting and composing robust features with denoising autoencoders, ICML; Tariq et al. "
        "2024, Self-supervised learning for chest computed tomography, J. Med. Imaging 11:064003"
    )
    crops_alone: ClassVar[bool] = True
    config: DenoisingConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        self.network = ReconstructionUNet(unet, channels)

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """`clean` and `noisy` (B, C, *spatial), `inside` (B, 1, *spatial) bool: part of the image."""
        c = self.config
        clean, inside = augmented(self, c, crops, generator)
        noisy = clean
        if c.noise in ("gaussian", "both"):
            noisy = gaussian_noise(noisy, inside, c.sigma, generator)
        if c.noise in ("salt_and_pepper", "both"):
            noisy = salt_and_pepper(noisy, inside, c.share, generator)
        return {"clean": clean, "noisy": noisy, "inside": inside}

    def forward(self, views: Views) -> Losses:
        """L2 on every voxel of the image; beside it the error of the noisy crop itself."""
        clean, noisy, inside = views["clean"], views["noisy"], views["inside"]
        mse = masked_mse(self.network(noisy), clean, inside, self.ranks)
        return Losses(mse, {"mse": mse.detach(), "noise_mse": masked_mse(noisy, clean, inside, self.ranks)})

    def exported(self) -> Exported:
        """Encoder and nnU-Net decoder of the plans; the 1x1 head is thrown away."""
        unet = self.network.unet
        return Exported(unet.encoder, unet.decoder)  # type: ignore[arg-type]

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """Clean crop, what the network saw, its answer."""
        output = self.network(views["noisy"]).float()
        return {"crop": views["clean"], "shown to the network": views["noisy"], "network output": output}
