"""Plans for CT: Hounsfield units with one zero for all scanners, so one clip and one scale for the whole pool."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
from nnssl.planners.ct_spacing import MAX_VOXELS, ct_target_spacing, slice_axis
from nnssl.planners.planner import LEFT_OUT, nnsslPlanner

from nnssl.data.hounsfield import exported_window, is_ct, window_statistics
from nnssl.errors import NnsslError, did_you_mean

log = logging.getLogger(__name__)

WINDOWS: dict[str, tuple[float, float]] = {
    # Tang et al. 2022 (self-supervised pretraining of Swin UNETR on 5,050 CT): air to bone.
    "wide": (-1000.0, 1000.0),
    # Setio et al. 2016 and LUNA16 after it: air to contrasted vessels and calcifications.
    "lung": (-1000.0, 400.0),
    # The radiologist's abdominal window, width 400 at level 40; also MedSAM's (Ma et al. 2024).
    "soft": (-160.0, 240.0),
}


class nnsslPlannerCT(nnsslPlanner):
    """`nnsslPlanner` for CT in Hounsfield units.

    - Clip bounds, mean and standard deviation come from the body of all cases (not from labels), and are written where
      nnU-Net's `CTNormalization` reads them, so that stock nnU-Net normalises just the same.
    - Target spacing: `nnssl.planners.ct_spacing`, or `--spacing`. 2D keeps the pool's median in-plane spacing.
    - Cases that are not in Hounsfield units are left out by name; if most are not, there is no plan.
    - `2d` and `3d_fullres` only. A cascade is not planned: its second stage needs a first stage's predictions, and the
      target spacing keeps typical scans within reach of one network already.

    Arguments as for `nnsslPlanner`; `options.window` is a name in `WINDOWS` or (low, high) in HU.

    Raises:
        NnsslError: no channel is called CT, most cases are not CT in HU, or the window is none.
    """

    def _check_options(self) -> None:
        window_bounds(self.options.window)

    def _read_inputs(self, dataset_name: str) -> None:
        super()._read_inputs(dataset_name)
        self.ct_channels = [int(c) for c, name in self.dataset_json["channel_names"].items() if is_ct(name)]
        if not self.ct_channels:
            names = ", ".join(f'"{n}"' for n in self.dataset_json["channel_names"].values())
            raise NnsslError(
                f'{dataset_name} has no channel called "CT" (channel_names: {names}): if it is CT, rename the channel in '
                "dataset.json, because nnU-Net goes by that name too; if not, use -pl nnsslPlanner"
            )
        self._leave_out()
        self._set_intensities()

    def _set_network_options(self) -> None:
        super()._set_network_options()
        self.lowres_creation_threshold = 0.0

    def _leave_out(self) -> None:
        """Drop the cases that are not in HU from what is planned."""
        ours = self.dataset_fingerprint["nnssl"]
        self.left_out: dict[str, str] = dict(ours["not_hounsfield"])
        names = list(ours["cases"])
        if 2 * len(self.left_out) >= len(names):
            raise NnsslError(_refusal(self.left_out, len(names)))
        for name, reason in self.left_out.items():
            log.warning("left out %s: no Hounsfield units: %s", name, reason)
        kept = [i for i, name in enumerate(names) if name not in self.left_out]
        self.cases = [c for c in self.cases if c.name not in self.left_out]
        self.dataset_json["numTraining"] = len(self.cases)
        self.dataset_fingerprint = copy.deepcopy(self.dataset_fingerprint) | {
            key: [self.dataset_fingerprint[key][i] for i in kept] for key in ("spacings", "shapes_after_crop")
        }

    def _set_intensities(self) -> None:
        """Intensity properties of the CT channels, from the body of the pool."""
        found = self.dataset_fingerprint["nnssl"]
        properties = self.dataset_fingerprint["foreground_intensity_properties_per_channel"]
        bounds = window_bounds(self.options.window) or (None, None)
        for c in self.ct_channels:
            statistics = window_statistics(found["ct_histogram"][str(c)], *bounds)
            if not statistics["std"] > 0:
                raise NnsslError(
                    f"no contrast is left between {statistics['percentile_00_5']:g} and {statistics['percentile_99_5']:g} "
                    f"HU in {self.dataset_name}: choose a wider --window, for example --window wide"
                )
            properties[str(c)] = statistics
            log.info(
                "CT is clipped to %.0f ... %.0f HU, mean %.1f, standard deviation %.1f",
                *(statistics[k] for k in ("percentile_00_5", "percentile_99_5", "mean", "std")),
            )
            self._warn_of_windows(c, statistics["percentile_00_5"], statistics["percentile_99_5"])

    def _warn_of_windows(self, channel: int, low: float, high: float) -> None:
        """Name the cases that were exported through a narrower window than the plans'."""
        measured = self.dataset_fingerprint["nnssl"]["measured"]
        narrow: dict[tuple[float, float], list[str]] = {}
        for name, facts in measured.items():
            window = None if name in self.left_out else exported_window(facts["intensity"][channel])
            if window is not None and (window[0] > low + 1 or window[1] < high - 1):
                narrow.setdefault(window, []).append(name)
        for (bottom, top), names in narrow.items():
            log.warning(
                "%d case(s) were cut off at %g and %g HU when they were exported, so that air, fat or bone look alike in "
                "them: export them again, or use --window=%g,%g for all (%s%s)",
                len(names), bottom, top, bottom, top, ", ".join(names[:3]), ", ..." if len(names) > 3 else "",
            )  # fmt: skip

    def determine_fullres_target_spacing(self) -> np.ndarray:
        """Target spacing in mm, array order."""
        if self.options.spacing is not None:
            return np.array(self.options.spacing, dtype=float)
        found = self.dataset_fingerprint
        return ct_target_spacing(found["spacings"], found["shapes_after_crop"], MAX_VOXELS[self.size])

    def determine_transpose(self) -> tuple[list[int], list[int]]:
        """nnU-Net's: the coarsest axis first. Where axes tie, the one across slices, so that 2D sees acquired slices."""
        target = self.determine_fullres_target_spacing()
        coarsest = np.flatnonzero(target > 0.99 * target.max())
        through = slice_axis(self.dataset_fingerprint["spacings"])
        first = through if through in coarsest else int(coarsest[0])
        forward = [first, *(a for a in range(3) if a != first)]
        return forward, [int(forward.index(a)) for a in range(3)]

    def get_plans_for_configuration(
        self, spacing: Any, median_shape: Any, data_identifier: str, voxels: float, cache: dict
    ) -> dict[str, Any]:
        """Plan of one configuration. 2D needs no compromise with the slices and keeps the pool's in-plane spacing."""
        if len(spacing) == 2 and self.options.spacing is None:
            plane = self.determine_transpose()[0][1:]
            finer = np.median(self.dataset_fingerprint["spacings"], axis=0)[plane]
            # whole voxels: nnU-Net rounds up to what the strides divide, and cuts fractions off the result
            median_shape = np.rint(np.asarray(median_shape) * spacing / finer)
            spacing = finer
        return super().get_plans_for_configuration(spacing, median_shape, data_identifier, voxels, cache)

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Write the plans with the cases that are left out."""
        if self.left_out:
            plans[LEFT_OUT] = self.left_out
        super().save_plans(plans)


def _refusal(left_out: dict[str, str], cases: int) -> str:
    """One message about many cases: three of them with what they are, and once what to do."""
    facts, remedies = [], []
    for name, reason in left_out.items():
        fact, _, remedy = reason.partition("; ")
        facts.append(f"{name}: {fact}")
        remedies.append(remedy)
    more = [f"and {len(facts) - 3} more"] if len(facts) > 3 else []
    advice = " ".join(f"{r[0].upper()}{r[1:]}." for r in dict.fromkeys(remedies) if r)
    return f"{len(facts)} of {cases} cases are not CT in Hounsfield units ({'; '.join(facts[:3] + more)}). {advice}"


def window_bounds(window: str | tuple[float, float] | None) -> tuple[float, float] | None:
    """Bounds (low, high) in HU of a window given by name or by its bounds; None stays None.

    Raises:
        NnsslError: there is no window of that name, or the bounds are no window.
    """
    if window is None:
        return None
    if isinstance(window, str):
        if window not in WINDOWS:
            known = ", ".join(f"{n} ({low:g} to {high:g} HU)" for n, (low, high) in WINDOWS.items())
            raise NnsslError(
                f"unknown window '{window}'.{did_you_mean(window, WINDOWS)} Windows: {known}; or --window=LOW,HIGH in HU"
            )
        return WINDOWS[window]
    low, high = (float(v) for v in window)
    if not (np.isfinite([low, high]).all() and low < high):
        raise NnsslError(f"--window={low:g},{high:g}: the lower bound comes first, for example --window=-160,240")
    if high < -1000 or low > 3000:
        raise NnsslError(f"--window={low:g},{high:g}: no tissue lies there; air is -1000 HU, water 0, bone 300 to 2000")
    return low, high
