"""nnU-Net's residual-encoder planner, for datasets that need no labels and machines that need no GPU."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnssl.planners.fingerprint import FINGERPRINT
from nnssl.planners.options import PlannerOptions
from nnssl.planners.sizes import SIZES
from nnssl.planners.timm_plan import fit_plan
from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    ResEncUNetPlanner,
)
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

from nnssl.data.checked import read_fingerprint
from nnssl.data.folders import RawCase, nnunet_folder, raw_cases, read_dataset_json
from nnssl.errors import NnsslError
from nnssl.files import read_json, write_json

log = logging.getLogger(__name__)

LEFT_OUT = "nnssl_left_out"
"""Entry of the plans: cases that a planner will not have, with its reasons."""


class nnsslPlanner(ResEncUNetPlanner):
    """Plans in nnU-Net's schema from a fingerprint made by `extract_fingerprint`.

    Sizes M, L and XL give what nnU-Net's ResEnc presets give, but for the batch cap; see `SIZES`.

    Args:
        dataset_name: folder name below nnUNet_raw.
        size: `S`, `M`, `L` or `XL`.
        plans_name: name of the plans file.
        required: configurations without which no plans are written.
        options: wishes beyond the size; what a planner cannot use it refuses.
    """

    def __init__(
        self,
        dataset_name: str,
        size: str = "M",
        plans_name: str = "nnsslPlans",
        required: Sequence[str] = (),
        options: PlannerOptions | None = None,
    ) -> None:
        if size not in SIZES:
            raise NnsslError(f"unknown size '{size}': choose from {', '.join(SIZES)}")
        self.size = size
        self.required = required
        self.preset = SIZES[size]
        self.options = options or PlannerOptions()
        self._check_options()
        self._read_inputs(dataset_name)
        self.plans_identifier = plans_name
        self._set_network_options()

    def _check_options(self) -> None:
        """Refuse what this planner cannot use."""
        if self.options.window is not None:
            raise NnsslError(f"--window is for CT: use it with -pl nnsslPlannerCT, not with {type(self).__name__}")

    def _read_inputs(self, dataset_name: str) -> None:
        """What nnU-Net's constructor reads, without its demand for a label file per case."""
        self.dataset_name = dataset_name
        raw = nnunet_folder("nnUNet_raw") / dataset_name
        preprocessed = nnunet_folder("nnUNet_preprocessed") / dataset_name
        self.raw_dataset_folder = str(raw)
        self.dataset_json = read_dataset_json(raw / "dataset.json")
        self.dataset_fingerprint = read_fingerprint(preprocessed / FINGERPRINT)
        usable = self.dataset_fingerprint["nnssl"]["cases"]
        self.cases: list[RawCase] = [c for c in raw_cases(raw, self.dataset_json) if c.name in usable]
        self.dataset_json["numTraining"] = len(self.cases)
        take_over_splits(raw, preprocessed)

    def _set_network_options(self) -> None:
        preset = self.preset
        self.anisotropy_threshold = ANISO_THRESHOLD
        self.UNet_class = self._unet_class()
        self.UNet_base_num_features = preset.base_features
        self.UNet_max_features_2d = preset.max_features_2d
        self.UNet_max_features_3d = preset.max_features_3d
        self.UNet_blocks_per_stage_encoder = preset.blocks_encoder
        self.UNet_blocks_per_stage_decoder = preset.blocks_decoder
        self.UNet_reference_val_3d = preset.reference_3d
        self.UNet_reference_val_2d = preset.reference_2d
        self.UNet_vram_target_GB = self.UNet_reference_val_corresp_GB = preset.gpu_memory_gb
        self.UNet_reference_val_corresp_bs_2d = 12
        self.UNet_reference_val_corresp_bs_3d = 2
        self.UNet_reference_com_nfeatures = 32
        self.UNet_featuremap_min_edge_length = 4
        self.UNet_min_batch_size = 2
        self.max_dataset_covered = 1.0
        self.lowres_creation_threshold = 0.25
        self.preprocessor_name = "DefaultPreprocessor"  # prediction resolves it: it must be nnU-Net's
        self.overwrite_target_spacing = self.options.spacing
        self.suppress_transpose = False
        self.plans: dict[str, Any] | None = None

    @staticmethod
    def _unet_class() -> type:
        from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

        return ResidualEncoderUNet

    def determine_reader_writer(self) -> type:
        """The reader that the fingerprint settled on."""
        return recursive_find_reader_writer_by_name(self.dataset_fingerprint["nnssl"]["reader"])

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Our own folders: nnU-Net's cases are stored differently and may be incomplete."""
        return f"{self.plans_identifier}_{configuration_name}"

    def get_plans_for_configuration(
        self, spacing: Any, median_shape: Any, data_identifier: str, voxels: float, cache: dict
    ) -> dict[str, Any]:
        """nnU-Net's plan of one configuration with the batch size capped; 2D on another encoder if one is asked for."""
        plan = super().get_plans_for_configuration(spacing, median_shape, data_identifier, voxels, cache)
        if self.options.encoder and len(spacing) == 2:
            fit_plan(
                plan,
                self.options.encoder,
                channels=len(self.dataset_json["channel_names"]),
                classes=len(self.dataset_json["labels"]),
                preset=self.preset,
                voxels=voxels,
                least_batch=self.UNet_min_batch_size,
                reference_batch=self.UNet_reference_val_corresp_bs_2d,
            )
        plan["batch_size"] = cap_batch_size(plan["batch_size"], len(plan["patch_size"]), self.size)
        return plan

    def plan_experiment(self) -> dict[str, Any]:
        """Make and save the plans; also saves dataset.json (completed) beside them, as nnU-Net expects."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), _one_worker_at_least():
            plans = super().plan_experiment()
        log.debug("%s", printed.getvalue())
        # nnU-Net copied the raw dataset.json, which may lack labels or count unusable cases.
        write_json(self.dataset_json, nnunet_folder("nnUNet_preprocessed") / self.dataset_name / "dataset.json")
        return plans

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Write the plans. Configurations of an older file under the same name that are not ours are kept."""
        if self.options.encoder:  # timm's backbones are 2D
            plans["configurations"] = {"2d": plans["configurations"]["2d"]}
        save_plans(plans, self.dataset_name, self.required)


@contextlib.contextmanager
def _one_worker_at_least() -> Iterator[None]:
    """nnU-Net's estimate of memory sets torch to `nnUNet_n_proc_DA` threads, of which 0 is a fit value only elsewhere."""
    variable, value = "nnUNet_n_proc_DA", os.environ.get("nnUNet_n_proc_DA")
    if value is None:
        yield
        return
    if not value.strip().isdecimal():
        raise NnsslError(f"environment variable {variable}={value}: it must be a whole number, for example 8")
    os.environ[variable] = str(max(1, int(value)))
    try:
        yield
    finally:
        os.environ[variable] = value


def take_over_splits(raw: Path, preprocessed: Path) -> None:
    """Bring a raw dataset's splits_final.json to where nnU-Net looks for it."""
    source, target = raw / "splits_final.json", preprocessed / "splits_final.json"
    if not source.is_file():
        return
    if target.is_file() and read_json(target) != read_json(source):
        raise NnsslError(f"{source} and {target} differ: delete the one that is out of date")
    write_json(read_json(source), target)


def cap_batch_size(batch_size: int, dim: int, size: str) -> int:
    """Limit a batch size to what the size preset allows."""
    preset = SIZES[size]
    return int(min(batch_size, preset.max_batch_2d if dim == 2 else preset.max_batch_3d))


def save_plans(plans: dict[str, Any], dataset_name: str, required: Sequence[str] = ()) -> None:
    """Write plans where nnU-Net looks for them.

    Configurations that a user added to an older file of the name are kept, and so is its `"nnssl"` block.

    Raises:
        NnsslError: a required configuration was not planned; nothing is written then.
    """
    from nnunetv2.utilities.json_export import recursive_fix_for_json_export

    recursive_fix_for_json_export(plans)
    missing = [c for c in required if c not in plans["configurations"]]
    if missing:
        planned = ", ".join(plans["configurations"])
        raise NnsslError(f"configuration {', '.join(missing)} is not planned for {dataset_name}; there are: {planned}")
    target = nnunet_folder("nnUNet_preprocessed", create=True) / dataset_name / f"{plans['plans_name']}.json"
    if target.is_file():
        old, ours = read_json(target), plans["configurations"]
        standard = {"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"}
        others = {n: c for n, c in old["configurations"].items() if n not in ours and n not in standard}
        kept = _with_parents(others, ours)
        for name in others.keys() - kept.keys():
            log.warning(
                "dropped configuration %s of the older plans: it inherits from %s, which these plans do not have",
                name,
                others[name]["inherits_from"],
            )
        ours.update(kept)
        if "nnssl" in old:
            plans["nnssl"] = old["nnssl"]
            log.info('kept the "nnssl" block of the older plans: %s', old["nnssl"])
    write_json(plans, target)
    log.info("plans: %s", target)


def _with_parents(others: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    """Configurations whose ancestors are among those that are there, or among themselves."""
    kept = dict(others)
    while lost := [n for n, c in kept.items() if (c.get("inherits_from") or n) not in {*kept, *there}]:
        for name in lost:
            del kept[name]
    return kept


def describe_plans(plans: dict[str, Any]) -> list[str]:
    """One line per configuration, for the console."""
    lines = []
    for name, c in plans["configurations"].items():
        if "patch_size" not in c:
            continue
        features = c["architecture"]["arch_kwargs"]["features_per_stage"]
        spacing = "x".join(f"{s:.3g}" for s in c["spacing"])
        patch = "x".join(str(int(n)) for n in c["patch_size"])
        median = "x".join(str(int(np.rint(n))) for n in c["median_image_size_in_voxels"])
        lines.append(
            f"{name}: patch {patch}, spacing {spacing} mm, median image {median}, batch {c['batch_size']}, "
            f"features {'-'.join(str(f) for f in features)}, {'/'.join(c['normalization_schemes'])}"
        )
    return lines
