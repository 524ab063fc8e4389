"""Pooled features of whole preprocessed cases, or of their slices, from a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnssl.data.folders import check_configuration, nnunet_folder, read_dataset_json, read_plans
from nnssl.errors import NnsslError
from nnssl.networks import build_unet, pool, total_stride
from nnssl.networks.pooled import Pooling
from nnssl.trainers.pools import fingerprint_of
from nnssl.transfer import LoadReport, Target, Weights, complete_network, target_of
from nnssl.transfer.reading import read_weights

RANDOM = "random"
LARGEST_VOXELS = 96**3
"""Larger inputs are read in tiles of the plans' patch size: memory stays bounded, and an encoder sees sizes it knows."""
SLICES_AT_ONCE = 16
Per = Literal["case", "slice"]


@dataclass(frozen=True)
class Extractor:
    """A frozen encoder and how its features are pooled.

    Attributes:
        encoder: in evaluation mode.
        levels: numbers of its stages, 0 = highest resolution.
        pooling: over space.
        tile: edge lengths for inputs that are too large to be read at once, multiples of the total stride.
        device: where it is.
        report: what was loaded; None for a random encoder.
        origin: kind, steps, method, ... of the weights, for files that hold features.
    """

    encoder: nn.Module
    levels: tuple[int, ...]
    pooling: Pooling
    tile: tuple[int, ...]
    device: torch.device
    report: LoadReport | None
    origin: dict[str, Any]

    @property
    def flat(self) -> bool:
        """Whether the encoder is 2D."""
        return len(self.tile) == 2

    def names(self) -> list[str]:
        """One name per feature: level, kind of pooling, channel."""
        kinds = ("avg", "max") if self.pooling == "avgmax" else (self.pooling,)
        widths = self.encoder.output_channels
        return [f"level{n}_{kind}_{c}" for n in self.levels for kind in kinds for c in range(widths[n])]  # type: ignore[index]

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Features of an image.

        Args:
            image: (C, Z, Y, X) preprocessed case.

        Returns:
            (1, features), or for a 2D encoder (Z, features), one row per slice.
        """
        x = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
        if self.flat:
            slices = x.movedim(1, 0)
            return np.concatenate([self._rows(s) for s in slices.split(SLICES_AT_ONCE)])
        return self._rows(x[None])

    def _rows(self, x: torch.Tensor) -> np.ndarray:
        """(N, C, *spatial) -> (N, features); averages over tiles weigh each tile by its share, maxima are over all."""
        x = _pad(x, total_stride(self.encoder))
        parts, weights = [], []
        for tile in _tiles(x, self.tile, LARGEST_VOXELS):
            maps = self.encoder(tile.to(self.device))
            parts.append([maps[n].float().cpu() for n in self.levels])
            weights.append(tile[0, 0].numel())
        rows = []
        for level in range(len(self.levels)):
            pooled = torch.stack([pool(p[level], self.pooling) for p in parts])
            rows.append(_merge(pooled, weights, self.pooling))
        return torch.cat(rows, 1).numpy()


def _merge(pooled: torch.Tensor, weights: Sequence[int], pooling: Pooling) -> torch.Tensor:
    """(tiles, N, F) -> (N, F)."""
    share = torch.tensor(weights, dtype=torch.float32)
    average = (pooled * (share / share.sum())[:, None, None]).sum(0)
    largest = pooled.amax(0)
    if pooling == "avgmax":
        half = pooled.shape[2] // 2
        return torch.cat([average[:, :half], largest[:, half:]], 1)
    return average if pooling == "avg" else largest


def _pad(x: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """Zeros around an image until every axis is a multiple of the stride, and two of them at least."""
    amounts = [max(2 * s, -(-n // s) * s) - n for n, s in zip(x.shape[2:], stride)]
    return nn.functional.pad(x, [p for n in reversed(amounts) for p in (n // 2, n - n // 2)])


def _tiles(x: torch.Tensor, tile: Sequence[int], most: int) -> Iterator[torch.Tensor]:
    """The whole image, or a grid of neighbouring tiles, shifted inwards at the far edges so that all are of one size."""
    if x[0, 0].numel() <= most:
        yield x
        return
    starts: list[list[int]] = []
    for n, t in zip(x.shape[2:], tile):
        count = max(1, -(-n // t))
        starts.append([min(i * t, max(0, n - t)) for i in range(count)])
    for place in np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, len(tile)):
        box = (slice(None), slice(None), *(slice(int(p), int(p) + t) for p, t in zip(place, tile)))
        yield x[box]


def make_extractor(
    source: str,
    dataset: str,
    plans_name: str,
    configuration: str,
    *,
    levels: str = "deepest",
    pooling: Pooling = "avgmax",
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Extractor:
    """A frozen encoder for a planned dataset.

    Args:
        source: any file or name that nnssl reads, fitted to the plans; or `random`, nnU-Net's own initialisation.
        dataset: folder name of the dataset.
        plans_name, configuration: its plans.
        levels: `deepest`, `all`, or numbers of stages (0 = highest resolution) separated by commas.
        pooling: mean, maximum, or both: behind an instance norm the mean alone says little (`nnssl.networks.pooled`).
        seed: of a random encoder, and of stages that a file does not cover.
        device: to run on.

    Raises:
        NnsslError: the file does not cover the encoder, or the levels are not the encoder's.
    """
    plans = read_plans(dataset, plans_name)
    settings = _configuration(plans, configuration, plans_name, dataset)
    dataset_json = read_dataset_json(nnunet_folder("nnUNet_preprocessed") / dataset / "dataset.json")
    target = target_of(plans, settings, dataset_json, fingerprint_of(dataset))
    weights = None if source == RANDOM else read_weights(source)
    return extractor_for(
        target, settings["patch_size"], weights, levels=levels, pooling=pooling, seed=seed, device=device
    )


def extractor_for(
    target: Target,
    patch_size: Sequence[int],
    weights: Weights | None,
    *,
    levels: str = "deepest",
    pooling: Pooling = "avgmax",
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Extractor:
    """A frozen encoder of a described network.

    Args:
        target: the network.
        patch_size: of the plans.
        weights: fitted to the network; None = nnU-Net's own initialisation.
        levels, pooling, seed, device: see `make_extractor`.

    Raises:
        NnsslError: the weights do not cover the encoder, or the levels are not the encoder's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet: Any = build_unet(target.architecture, target.channels, 1)
    report, origin = None, {"kind": RANDOM, "seed": seed}
    if weights is not None:
        report, origin = _load(unet, weights, target, seed)
    encoder = unet.encoder.to(device).eval().requires_grad_(False)
    stride = total_stride(encoder)
    tile = tuple(max(2 * s, int(n) // s * s) for n, s in zip(patch_size, stride))
    chosen = _levels(levels, len(encoder.output_channels))
    return Extractor(encoder, chosen, pooling, tile, torch.device(device), report, origin)


def _configuration(plans: dict[str, Any], name: str, plans_name: str, dataset: str) -> dict[str, Any]:
    check_configuration(plans, name, plans_name, dataset)
    settings = dict(PlansManager(plans).get_configuration(name).configuration)
    if settings.get("previous_stage"):
        raise NnsslError(f"{name} is the second stage of a cascade, which does not see images alone: use 3d_fullres")
    return settings


def _load(unet: nn.Module, weights: Weights, target: Target, seed: int) -> tuple[LoadReport, dict[str, Any]]:
    state, report = complete_network(weights, target, "fresh", seed)
    unet.load_state_dict({k: v for k, v in state.items() if k in unet.state_dict()}, strict=False)
    known = {k: weights.provenance[k] for k in ("method", "steps", "seed", "cases") if k in weights.provenance}
    return report, {"kind": weights.kind, **known}


def _levels(text: str, count: int) -> tuple[int, ...]:
    if text == "deepest":
        return (count - 1,)
    if text == "all":
        return tuple(range(count))
    words = text.split(",")
    if not all(w.strip().isdecimal() and int(w) < count for w in words):
        raise NnsslError(f"--levels {text}: give deepest, all, or numbers from 0 to {count - 1} separated by commas")
    return tuple(dict.fromkeys(int(w) for w in words))


def case_reader(dataset: str, plans_name: str, configuration: str) -> tuple[list[str], Any]:
    """Names of the preprocessed cases of a configuration, labelled or not, and a function name -> (C, Z, Y, X).

    Raises:
        NnsslError: nothing is preprocessed.
    """
    from nnssl.data.pool import read_pool
    from nnssl.data.store import open_case

    settings = _configuration(read_plans(dataset, plans_name), configuration, plans_name, dataset)
    found = read_pool(nnunet_folder("nnUNet_preprocessed") / dataset, settings["data_identifier"])
    index = {case.name: i for i, case in enumerate(found.cases)}

    def read(name: str) -> np.ndarray:
        return np.asarray(open_case(found.image_path(index[name]))[:], dtype=np.float32)

    return list(index), read
