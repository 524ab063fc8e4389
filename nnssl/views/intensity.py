"""Brightness, contrast, gamma, blur and noise on normalised images, whole batches at once.

The kinds are those of nnU-Net's own augmentation (Isensee et al. 2021, Nature Methods 18:203). Ranges are in
units of the image's standard deviation, as for z-scored images. Nothing is taken from padding and nothing is written to it.
"""

from __future__ import annotations

import math

import torch

from nnssl.views.geometry import Geometry
from nnssl.views.noise import device_generator


def random_intensity(
    x: torch.Tensor,
    inside: torch.Tensor,
    generator: torch.Generator,
    *,
    p: float = 0.5,
    brightness: float = 0.2,
    contrast: tuple[float, float] = (0.65, 1.5),
    gamma: tuple[float, float] = (0.7, 1.5),
    blur: tuple[float, float] = (0.5, 1.0),
    p_blur: float = 0.2,
    noise: float = 0.1,
    p_noise: float = 0.2,
    geometry: Geometry | None = None,
) -> torch.Tensor:
    """Change contrast, brightness, gamma, sharpness and noise at random, in this order, each with its own probability.

    Every crop draws its own numbers, and every channel its own strength. Factors are drawn evenly on a logarithmic scale,
    so that making weaker and making stronger are alike.

    Args:
        x: (B, C, *spatial) float, normalised.
        inside: (B, 1, *spatial) bool, True = image.
        generator: CPU generator.
        p: probability per crop of contrast, of brightness and of gamma, each drawn for itself.
        brightness: largest shift up or down.
        contrast: range of the factor by which values move away from the channel's mean.
        gamma: range of the exponent, see `apply_gamma`; half of the crops are inverted before and after.
        blur: range of the Gaussian's standard deviation in voxels.
        p_blur: probability of blur, per crop.
        noise: largest standard deviation of Gaussian noise.
        p_noise: probability of noise, per crop.
        geometry: where it is given, its `thick_axes` are not blurred.

    Returns:
        (B, C, *spatial), zero outside `inside`. Inside it, crops for which nothing was drawn pass bit for bit.
    """
    batch, channels = x.shape[:2]
    # All numbers are drawn whether used or not: what one crop gets does not depend on the probabilities of others.
    chosen = torch.rand(batch, 5, generator=generator) < torch.tensor([p, p, p, p_blur, p_noise])
    inverted = torch.rand(batch, generator=generator) < 0.5
    strength = torch.rand(batch, channels, 5, generator=generator)
    noise_generator = device_generator(generator, x.device)
    fine = [a for a in range(x.ndim - 2) if geometry is None or a not in geometry.thick_axes()]

    def drawn(kind: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = chosen[:, kind].nonzero().flatten()
        return rows, rows.to(x.device, non_blocking=True), strength[rows, :, kind]

    def per_channel(values: torch.Tensor) -> torch.Tensor:
        return values.to(x.device, non_blocking=True).view(*values.shape, *[1] * (x.ndim - 2))

    out = torch.where(inside, x, 0.0)
    rows, index, u = drawn(0)
    if len(rows):
        part, where = out[index], inside[index]
        mean, _ = moments(part, where)
        out[index] = torch.where(where, mean + (part - mean) * per_channel(_between(contrast, u)), 0.0)
    rows, index, u = drawn(1)
    if len(rows):
        out[index] = torch.where(inside[index], out[index] + per_channel((2 * u - 1) * brightness), 0.0)
    rows, index, u = drawn(2)
    if len(rows):
        flipped = inverted[rows].to(x.device, non_blocking=True)
        out[index] = apply_gamma(out[index], inside[index], per_channel(_between(gamma, u)), flipped)
    rows, index, u = drawn(3)
    if len(rows):
        out[index] = apply_blur(out[index], inside[index], _between(blur, u), fine)
    rows, index, u = drawn(4)
    if len(rows):
        size = (len(rows), *x.shape[1:])
        grain = torch.randn(size, generator=noise_generator, device=x.device, dtype=x.dtype) * per_channel(u * noise)
        out[index] = torch.where(inside[index], out[index] + grain, 0.0)
    return out


def apply_gamma(x: torch.Tensor, inside: torch.Tensor, exponent: torch.Tensor, inverted: torch.Tensor) -> torch.Tensor:
    """Raise values, scaled to [0, 1] by their minimum and maximum in the image, to a power; mean and SD stay as they were.

    Keeping mean and standard deviation (nnU-Net's `retain_stats`) makes this a change of shape of the histogram: without
    it a few bright voxels would decide how far all others move.

    Args:
        x: (B, C, *spatial).
        inside: (B, 1, *spatial) bool, True = image.
        exponent: (B, C, 1, ...), on the device of x.
        inverted: (B,) bool; these crops are turned upside down before and after, so that bright values are spread.

    Returns:
        (B, C, *spatial), zero outside `inside`. A channel of one value stays as it is.
    """
    unit, low, high = unit_scale(x, inside)
    upside_down = inverted.view(-1, *[1] * (x.ndim - 1))
    unit = torch.where(upside_down, 1.0 - unit, unit).pow(exponent)
    unit = torch.where(upside_down, 1.0 - unit, unit)
    mean_before, sd_before = moments(x, inside)
    mean, sd = moments(unit, inside)
    mapped = mean_before + (unit - mean) * (sd_before / sd.clamp(min=1e-5))
    return torch.where(inside, torch.where(high > low, mapped, x), 0.0)


def unit_scale(
    x: torch.Tensor, inside: torch.Tensor, reach: float | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values between 0 (the smallest in the image) and 1 (the largest), per crop and channel.

    Args:
        x: (B, C, *spatial).
        inside: (B, 1, *spatial) bool, True = image.
        reach: standard deviations from the mean that the range may reach; values beyond become 0 or 1.

    Returns:
        Scaled values, 0 outside `inside` and in a channel of one value; the values behind 0 and 1, (B, C, 1, ...), both 0
        where there is no image or only one value.
    """
    axes = tuple(range(2, x.ndim))
    low = x.masked_fill(~inside, torch.inf).amin(axes, keepdim=True)
    high = x.masked_fill(~inside, -torch.inf).amax(axes, keepdim=True)
    if reach is not None:
        mean, sd = moments(x, inside)
        low, high = low.maximum(mean - reach * sd), high.minimum(mean + reach * sd)
    varied = (high - low) > 1e-5
    low, high = torch.where(varied, low, 0.0), torch.where(varied, high, 0.0)
    unit = ((x - low) / torch.where(varied, high - low, 1.0)).clamp(0.0, 1.0)
    return torch.where(inside & varied, unit, 0.0), low, high


def moments(x: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the image's voxels, each (B, C, 1, ...); 0 where there is no image."""
    count = _sum(inside.to(x.dtype)).clamp(min=1.0)
    mean = _sum(x * inside) / count
    return mean, (_sum((x - mean).square() * inside) / count).sqrt()


def apply_blur(x: torch.Tensor, inside: torch.Tensor, sigma: torch.Tensor, axes: list[int]) -> torch.Tensor:
    """Gaussian blur of the image's own voxels: weights that fall on padding are left out and the rest scaled up.

    Args:
        x: (B, C, *spatial), zero outside `inside`.
        inside: (B, 1, *spatial) bool, True = image.
        sigma: (B, C) standard deviations in voxels, > 0, on the CPU.
        axes: spatial axes to blur along, 0 being the first.

    Returns:
        (B, C, *spatial), zero outside `inside`.
    """
    radius = math.ceil(3 * float(sigma.max()))
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma[..., None]).square())
    kernel = (kernel / kernel.sum(-1, keepdim=True)).to(x.device, x.dtype, non_blocking=True)
    kernel = kernel.view(*kernel.shape, *[1] * (x.ndim - 2))  # (B, C, taps, 1, ...)
    weight = inside.to(x.dtype).expand_as(x)
    for axis in axes:
        x, weight = _smooth(x, kernel, axis + 2), _smooth(weight, kernel, axis + 2)
    return torch.where(inside, x / weight.clamp(min=1e-5), 0.0)


def _smooth(x: torch.Tensor, kernel: torch.Tensor, axis: int) -> torch.Tensor:
    """Weighted sum of shifted copies: every sample and channel has its own kernel, which convolutions do not offer."""
    taps, n = kernel.shape[2], x.shape[axis]
    out = torch.zeros_like(x)
    for tap in range(taps):
        shift = tap - taps // 2
        if abs(shift) < n:
            length = n - abs(shift)
            to = out.narrow(axis, max(-shift, 0), length)
            to.addcmul_(x.narrow(axis, max(shift, 0), length), kernel[:, :, tap])
    return out


def _sum(x: torch.Tensor) -> torch.Tensor:
    """Over space, keeping the axes."""
    return x.sum(tuple(range(2, x.ndim)), keepdim=True)


def _between(limits: tuple[float, float], u: torch.Tensor) -> torch.Tensor:
    """Numbers in [0, 1] onto a range, evenly on a logarithmic scale."""
    low, high = math.log(limits[0]), math.log(limits[1])
    return torch.exp(low + u * (high - low))
