"""Random numbers per voxel, drawn where the images are."""

from __future__ import annotations

import torch


def device_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on the images' device, seeded from the CPU one: noise for every voxel is too much to copy over."""
    seed = int(torch.randint(2**62, (1,), generator=generator).item())
    return torch.Generator(device).manual_seed(seed)


def gaussian_noise(x: torch.Tensor, inside: torch.Tensor, sigma: float, generator: torch.Generator) -> torch.Tensor:
    """Add independent normal noise to every voxel and channel of the image.

    Args:
        x: (B, C, *spatial).
        inside: (B, 1, *spatial) bool, True = image; the rest stays as it is.
        sigma: standard deviation, in units of x.
        generator: CPU generator.
    """
    noise = torch.randn(x.shape, generator=device_generator(generator, x.device), device=x.device)
    return x + sigma * noise * inside


def salt_and_pepper(x: torch.Tensor, inside: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Set random voxels of the image to its smallest or largest value, each voxel and channel on its own.

    Args:
        x: (B, C, *spatial).
        inside: (B, 1, *spatial) bool, True = image; extremes are looked up, and voxels replaced, only there.
        share: of voxels to replace, half of them by the minimum of their sample and channel, half by the maximum.
        generator: CPU generator.
    """
    space = tuple(range(2, x.ndim))
    low = torch.where(inside, x, torch.inf).amin(space, keepdim=True)
    high = torch.where(inside, x, -torch.inf).amax(space, keepdim=True)
    draw = torch.rand(x.shape, generator=device_generator(generator, x.device), device=x.device)
    x = torch.where(inside & (draw < share / 2), low, x)
    return torch.where(inside & (draw >= 1 - share / 2), high, x)
