"""Plans for a target that fit a file of pretrained weights: the other direction of `--like`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from math import prod
from typing import Any, Literal

import numpy as np
from nnssl.planners.options import PlannerOptions
from nnssl.planners.planner import cap_batch_size, nnsslPlanner

from nnssl.errors import NnsslError
from nnssl.transfer.source import Weights

log = logging.getLogger(__name__)

SpacingPolicy = Literal["pretrained", "target", "fixed"]


class LikeWeightsPlanner(nnsslPlanner):
    """Plans with the network of a file of weights.

    Topology and widths are the file's, so that everything loads; the patch is the file's, cut to what the target's
    images can fill; the batch is what nnU-Net's memory estimate leaves for the size. Normalisation is the target's own by
    channel name, but for CT that was pretrained with `CTNormalization`: then clip bounds and scale are the file's, because
    the same tissue must have the same value on both sides.

    Args:
        dataset_name: the target's folder name below nnUNet_raw.
        weights: the file's content; it must describe its network.
        policy: target spacing: `pretrained` (the file's: structures have the size in voxels that the network learned),
            `target` (what nnU-Net would choose), or `fixed` (`options.spacing`).
        size: preset that caps the batch size and warns of memory.
        plans_name, required, options: as for `nnsslPlanner`.

    Raises:
        NnsslError: the file says too little of its network or images, or is 3D and the target is not.
    """

    def __init__(
        self,
        dataset_name: str,
        weights: Weights,
        policy: SpacingPolicy,
        size: str = "M",
        plans_name: str = "nnsslPlans",
        required: tuple[str, ...] = (),
        options: PlannerOptions | None = None,
    ) -> None:
        if weights.architecture is None or weights.pretraining.patch_size is None:
            raise NnsslError(
                f"the file ({weights.kind}) does not describe its network and patch size, so no plans can be made like it: "
                "plan the target as usual and fit the weights with nnssl_export"
            )
        self.weights, self.policy = weights, policy
        if policy == "fixed" and (options is None or options.spacing is None):
            raise NnsslError("--like-spacing fixed needs --spacing Z Y X")
        if policy == "pretrained" and not weights.pretraining.spacing:
            raise NnsslError(
                f"the file ({weights.kind}) does not say at what spacing it was pretrained: use --like-spacing target, or "
                "--like-spacing fixed with --spacing Z Y X"
            )
        super().__init__(dataset_name, size, plans_name, required, options)

    @property
    def dim(self) -> int:
        """2 or 3, as the file's network."""
        assert self.weights.pretraining.patch_size is not None
        return len(self.weights.pretraining.patch_size)

    def determine_fullres_target_spacing(self) -> np.ndarray:
        """Target spacing in mm, array order."""
        found = self.weights.pretraining.spacing
        if self.policy != "pretrained" or found is None:
            return super().determine_fullres_target_spacing()
        own = super().determine_fullres_target_spacing()
        if len(found) == 2:  # the slices stay as they are
            plane = [a for a in range(3) if a != int(np.argmax(own))]
            own[plane] = found
            return own
        # the file's axes are in its network's order, coarsest first; put each on the target's axis of the same rank
        spacing = np.empty(3)
        spacing[np.argsort(-own, kind="stable")] = np.sort(found)[::-1]
        return spacing

    def determine_transpose(self) -> tuple[list[int], list[int]]:
        """nnU-Net's; for a 2D file the slices are those that the target's own spacing makes, whatever the file's is."""
        if self.dim == 3:
            return super().determine_transpose()
        first = int(np.argmax(super().determine_fullres_target_spacing()))
        forward = [first, *(a for a in range(3) if a != first)]
        return forward, [int(forward.index(a)) for a in range(3)]

    def get_plans_for_configuration(
        self, spacing: Any, median_shape: Any, data_identifier: str, voxels: float, cache: dict
    ) -> dict[str, Any]:
        """nnU-Net's plan with the network, patch and batch that the file asks for."""
        plan = super().get_plans_for_configuration(spacing, median_shape, data_identifier, voxels, cache)
        if len(spacing) != self.dim:
            return plan
        assert self.weights.architecture is not None
        plan["architecture"] = _architecture(self.weights.architecture)
        strides = plan["architecture"]["arch_kwargs"]["strides"]
        total = [prod(s[axis] for s in strides) for axis in range(self.dim)]
        plan["patch_size"] = self._patch(total, median_shape)
        plan["batch_size"] = self._batch(plan)
        return plan

    def _patch(self, total: list[int], median_shape: Any) -> list[int]:
        """The file's patch, cut to the median image (rounded up to what the strides divide), two steps at least."""
        wanted = self.weights.pretraining.patch_size
        assert wanted is not None
        return [int(max(min(p, -(-round(n) // s) * s), min(p, 2 * s))) for p, n, s in zip(wanted, median_shape, total)]

    def _batch(self, plan: Mapping[str, Any]) -> int:
        a = plan["architecture"]
        estimate = self.static_estimate_VRAM_usage(
            plan["patch_size"],
            len(self.dataset_json["channel_names"]),
            len(self.dataset_json["labels"]),
            a["network_class_name"],
            a["arch_kwargs"],
            a["_kw_requires_import"],
        )
        reference = self.UNet_reference_val_2d if self.dim == 2 else self.UNet_reference_val_3d
        unit = self.UNet_reference_val_corresp_bs_2d if self.dim == 2 else self.UNet_reference_val_corresp_bs_3d
        fits = reference / estimate * unit
        if fits < self.UNet_min_batch_size:
            log.warning(
                "the file's network on patches of %s takes about %.1f times the memory that size %s stands for (%g GB)",
                "x".join(map(str, plan["patch_size"])),
                self.UNet_min_batch_size / fits,
                self.size,
                self.preset.gpu_memory_gb,
            )
        return cap_batch_size(max(round(fits), self.UNet_min_batch_size), self.dim, self.size)

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Write the plans: the file's configuration only, and its CT normalisation."""
        name = "2d" if self.dim == 2 else "3d_fullres"
        if name not in plans["configurations"]:
            raise NnsslError(f"the file's network is {self.dim}D and {self.dataset_name} has 2D images: nothing fits")
        plans["configurations"] = {name: plans["configurations"][name]}
        theirs = self.weights.pretraining
        schemes = plans["configurations"][name]["normalization_schemes"]
        for c, scheme in enumerate(schemes):
            if scheme == "CTNormalization" and "CTNormalization" in theirs.normalization and theirs.intensity:
                properties = theirs.intensity.get(str(c), theirs.intensity.get("0"))
                plans["foreground_intensity_properties_per_channel"][str(c)] = dict(properties)
        plans["nnssl_like"] = {"weights": self.weights.kind, "spacing": self.policy}
        super().save_plans(plans)


def _architecture(found: Mapping[str, Any]) -> dict[str, Any]:
    kept = copy.deepcopy(dict(found))
    if "_kw_requires_import" not in kept:
        raise NnsslError("the file describes its network without the entries that must be imported")
    return kept
