"""Plans for thick-slice cardiac cine MR: short-axis stacks of few slices, each slice kept as it is."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from nnssl.planners.planner import cap_batch_size, nnsslPlanner
from nnssl.planners.thick_slices import THICK, Stacks, Topology, find_stacks, patch_slices, smaller, topology

from nnssl.data.spacing import SLICE_SPACING
from nnssl.errors import NnsslError

log = logging.getLogger(__name__)

LEAST_IN_PLANE = 96
"""Voxels: a patch is not made narrower in-plane (150 mm at 1.5 mm: a heart) before slices are cut off it."""

LEAST_BATCH_3D = 4
"""Stacks per step from size M on: what compares crops with each other learns nothing from two."""


class nnsslPlannerACDC(nnsslPlanner):
    """`nnsslPlanner` for stacks of thick slices such as ACDC's.

    In-plane spacing is the median. The slices of each case stay as they are: the 3D configurations name two spacings
    (in-plane) only, and nnU-Net then leaves the first axis alone, in preprocessing and when it exports a prediction,
    as it does for 2D. With `--spacing Z Y X` the slices are resampled to Z like in any other plans.

    The patch holds the whole stack, pooling and kernels follow the typical stack (`nnssl.planners.thick_slices`), and
    every channel is normalised per case by z-score. Arguments as for `nnsslPlanner`.

    Raises:
        NnsslError: the data are no stacks of thick slices, or the wanted spacing is none.
    """

    def _check_options(self) -> None:
        super()._check_options()
        wanted = self.options.spacing
        if wanted is not None and (len(wanted) != 3 or max(wanted) < THICK * float(np.median(wanted))):
            raise NnsslError(
                f"--spacing {' '.join(f'{s:g}' for s in wanted)} has no thick slices (Z Y X, one of them at least {THICK:g} "
                "times the others): use -pl nnsslPlanner for it, or leave --spacing out to keep each case's slices"
            )

    @property
    def keeps_slices(self) -> bool:
        """Whether every case keeps its own slices."""
        return self.options.spacing is None

    @property
    def stacks(self) -> Stacks:
        """The dataset's stacks."""
        return find_stacks(self.dataset_fingerprint)

    def determine_fullres_target_spacing(self) -> np.ndarray:
        """Typical spacing (Z, Y, X) in mm; its thick axis only describes, unless the user named a spacing."""
        return np.array(self.options.spacing if self.options.spacing is not None else self.stacks.spacing)

    def determine_normalization_scheme_and_whether_mask_is_used_for_norm(self) -> tuple[list[str], list[bool]]:
        """Z-score per case, whatever a channel is called: MR intensities have no unit. The mask is nnU-Net's rule."""
        channels = len(self.dataset_json["channel_names"])
        cropped_much = self.dataset_fingerprint["median_relative_size_after_cropping"] < 0.75
        return ["ZScoreNormalization"] * channels, [cropped_much] * channels

    def plan_experiment(self) -> dict[str, Any]:
        """Make and save the plans; names the cases that are no stacks like the others."""
        for name, reason in self.stacks.odd.items():
            log.warning("%s is no stack of thick slices like the others (%s): consider leaving it out", name, reason)
        return super().plan_experiment()

    def get_plans_for_configuration(
        self, spacing: Any, median_shape: Any, data_identifier: str, voxels: float, cache: dict
    ) -> dict[str, Any]:
        """Plan of one configuration; 2D is nnU-Net's, in 3D the stack decides the patch."""
        if len(spacing) == 3 and self.keeps_slices:
            median_shape = np.array([self.stacks.typical_slices, *median_shape[1:]])
        plan = super().get_plans_for_configuration(spacing, median_shape, data_identifier, voxels, cache)
        if len(spacing) == 2:
            return plan
        counts = self._slice_counts(float(spacing[0]))
        found, estimate = self._fit(plan, counts, cache)
        self._set_topology(plan, found)
        fits = round(2 * self._budget() / estimate)
        covered = round(voxels * self.max_dataset_covered / float(np.prod(found.patch)))
        plan["batch_size"] = cap_batch_size(max(min(fits, covered), self.UNet_min_batch_size), 3, self.size)
        return plan

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Write the plans, those of the 3D configurations with in-plane spacings only."""
        for configuration in plans["configurations"].values():
            if self.keeps_slices and len(configuration.get("spacing", ())) == 3:
                slice_spacing, *in_plane = (float(s) for s in configuration["spacing"])
                configuration |= {"spacing": in_plane, SLICE_SPACING: slice_spacing}
        super().save_plans(plans)
        if self.keeps_slices and "3d_fullres" in plans["configurations"]:
            log.info("3D: every case keeps its slices, most often of %g mm; spacings below are in-plane", slice_spacing)

    def _slice_counts(self, slice_spacing: float) -> list[int]:
        """Slices of each preprocessed case."""
        stacks = self.stacks
        if self.keeps_slices:
            return list(stacks.slices)
        thickness = [s[stacks.axis] for s in self.dataset_fingerprint["spacings"]]
        return [max(1, round(n * t / slice_spacing)) for n, t in zip(stacks.slices, thickness)]

    def _fit(self, plan: dict[str, Any], counts: list[int], cache: dict) -> tuple[Topology, float]:
        """The largest patch within the memory target: all slices, then as much in-plane as is left, at nnU-Net's cost."""
        typical = max(1, int(np.median(counts)))
        spacing = [float(s) for s in plan["spacing"]]
        whole = np.asarray(plan["median_image_size_in_voxels"], dtype=float)
        least = (patch_slices(counts), *(min(LEAST_IN_PLANE, int(n)) for n in whole[1:]))
        found = topology(spacing, [least[0], *(int(n) for n in whole[1:])], typical)
        stack = found.patch[0]
        target = self._budget() * 2 / self._least_batch()
        while (estimate := self._estimate(plan, found, cache)) > target:
            in_plane = sorted((1, 2), key=lambda a: found.patch[a] / whole[a], reverse=True)
            options = [o for a in in_plane if (o := smaller(spacing, found, a, typical)) and o.patch[a] >= least[a]]
            reduced = options[0] if options else smaller(spacing, found, 0, typical)
            if reduced is None:
                break
            found = reduced
        if found.patch[0] < min(stack, max(counts)):
            log.warning(
                "size %s has no room for stacks of %d slices: the patch has %d", self.size, stack, found.patch[0]
            )
        elif max(counts) > found.patch[0]:
            number = sum(n > found.patch[0] for n in counts)
            log.info("%d case(s) have more slices than the patch's %d, at most %d", number, found.patch[0], max(counts))
        return found, estimate

    def _least_batch(self) -> int:
        return 2 if self.size == "S" else LEAST_BATCH_3D

    def _budget(self) -> float:
        return float(self.UNet_reference_val_3d * self.UNet_vram_target_GB / self.UNet_reference_val_corresp_GB)

    def _estimate(self, plan: dict[str, Any], found: Topology, cache: dict) -> float:
        """nnU-Net's measure of a network's cost: feature map voxels."""
        key = f"{found.patch}_{found.strides}"
        if key not in cache:
            self._set_topology(plan, found)
            a = plan["architecture"]
            cache[key] = self.static_estimate_VRAM_usage(
                found.patch,
                len(self.dataset_json["channel_names"]),
                len(self.dataset_json["labels"]),
                a["network_class_name"],
                a["arch_kwargs"],
                a["_kw_requires_import"],
            )
        return float(cache[key])

    def _set_topology(self, plan: dict[str, Any], found: Topology) -> None:
        """Put patch, strides and kernels, and what depends on the number of stages, into a plan."""
        stages = len(found.strides)
        plan["patch_size"] = found.patch
        plan["architecture"]["arch_kwargs"] |= {
            "n_stages": stages,
            "features_per_stage": tuple(
                min(self.UNet_max_features_3d, self.UNet_base_num_features * 2**i) for i in range(stages)
            ),
            "strides": found.strides,
            "kernel_sizes": found.kernels,
            "n_blocks_per_stage": self.UNet_blocks_per_stage_encoder[:stages],
            "n_conv_per_stage_decoder": self.UNet_blocks_per_stage_decoder[: stages - 1],
        }
