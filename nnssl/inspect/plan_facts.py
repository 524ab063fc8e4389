"""What the plans of a dataset say, configuration by configuration, and how much of it has been preprocessed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.data.folders import read_plans
from nnssl.data.pool import check_origin, read_pool
from nnssl.data.spacing import crop_spacing
from nnssl.errors import MissingError, NnsslError
from nnssl.files import read_json
from nnssl.inspect.words import dataset_number, made

DEFAULT_PLANS = "nnsslPlans"


@dataclass(frozen=True)
class Stage:
    """One stage of the encoder; all per axis in the plans' order."""

    features: int
    stride: tuple[int, ...]
    kernel: tuple[int, ...]
    blocks: int
    size: tuple[int, ...]
    """Voxels of its feature map for one patch."""


@dataclass(frozen=True)
class ConfigurationFacts:
    """One configuration of the plans. Axes are in the plans' order, see `PlanFacts.axes`.

    Attributes:
        name: `2d`, `3d_fullres`, ...
        patch: voxels.
        spacing: mm, of the resampled images.
        median: voxels of the median case after resampling.
        batch_size: crops per step.
        normalization: scheme per channel.
        network: class name.
        stages: of the encoder; empty for networks that do not list them.
        cases: preprocessed cases, labelled ones among them; 0 when there are none.
        failed: cases that could not be preprocessed -> reason.
        problem: why it cannot be trained from; empty when it can.
        data_folder: with the preprocessed cases.
    """

    name: str
    patch: tuple[int, ...]
    spacing: tuple[float, ...]
    median: tuple[float, ...]
    batch_size: int
    normalization: tuple[str, ...]
    network: str
    stages: tuple[Stage, ...]
    cases: int
    labelled_cases: int
    failed: Mapping[str, str]
    problem: str
    data_folders: tuple[Path, ...]

    @property
    def patch_mm(self) -> tuple[float, ...]:
        """Extent of a patch."""
        return tuple(n * s for n, s in zip(self.patch, self.spacing))

    @property
    def median_mm(self) -> tuple[float, ...]:
        """Extent of the median case."""
        return tuple(n * s for n, s in zip(self.median, self.spacing))

    @property
    def coverage(self) -> float:
        """Share of the median case (of its median slice in 2D) that one patch covers."""
        return float(np.prod([min(1.0, p / m) for p, m in zip(self.patch, self.median)]))


@dataclass(frozen=True)
class PlanFacts:
    """A plans file.

    Attributes:
        name: of the plans.
        planner: class that made them.
        like: dataset whose plans were followed (`--like`), empty otherwise.
        reader: nnU-Net's reader class.
        made: when, local time.
        axes: the image's axes (0 = Z, 1 = Y, 2 = X) in the order of the plans (`transpose_forward`).
        configurations: those that can be trained on their own.
        clip: channel index -> bounds to which CTNormalization clips, in HU.
    """

    name: str
    planner: str
    like: str
    reader: str | None
    made: str
    axes: tuple[int, ...]
    configurations: tuple[ConfigurationFacts, ...]
    clip: Mapping[int, tuple[float, float]]

    def configuration(self, name: str) -> ConfigurationFacts | None:
        """By name."""
        return next((c for c in self.configurations if c.name == name), None)

    def image_spacing(self, configuration: ConfigurationFacts) -> dict[int, float]:
        """Spacing of a configuration by axis of the image (0 = Z); a 2D configuration has none for the first axis."""
        axes = self.axes[-len(configuration.spacing) :]
        return dict(zip(axes, configuration.spacing))


def read_plan_facts(
    root: Path | None,
    dataset_name: str,
    plans_name: str | None,
    fingerprint: Mapping[str, Any] | None,
    notes: list[str],
) -> PlanFacts | None:
    """Facts of the plans that were asked for; without a wish of nnsslPlans, else of the first there are.

    Args:
        root: the dataset's preprocessed folder, if there is one.
        dataset_name: of the dataset.
        plans_name: plans to take; None = what there is.
        fingerprint: for the check that preprocessed cases are up to date.
        notes: collects what is missing.

    Raises:
        NnsslError: the plans that were asked for do not exist.
    """
    number = dataset_number(dataset_name)
    known = plans_there(root) if root else []
    if plans_name is None:
        if not known:
            notes.append(f"no plans yet: nnssl_plan_and_preprocess -d {number} makes them")
            return None
        plans_name = DEFAULT_PLANS if DEFAULT_PLANS in known else known[0]
        others = [p for p in known if p != plans_name]
        if others:
            notes.append(f"shown are the plans {plans_name}; there are also {', '.join(others)} (-p NAME)")
    try:
        plans = read_plans(dataset_name, plans_name)
    except ValueError as error:
        if isinstance(error, MissingError):
            raise
        notes.append(
            f"the plans {plans_name} cannot be read ({error}): nnssl_plan_and_preprocess -d {number} writes new ones"
        )
        return None
    assert root is not None  # read_plans found them there
    try:
        return _facts(root, plans_name, plans, fingerprint, _failed_cases(root, plans_name, notes))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        notes.append(f"the plans {plans_name} are not in nnU-Net's schema ({type(error).__name__}: {error})")
        return None


def plans_there(root: Path) -> list[str]:
    """Names of the plans in a preprocessed folder."""
    names = (p.stem for p in root.glob("*Plans*.json"))
    return sorted(n for n in names if not n.endswith(("_pool", "_report")))


def _failed_cases(root: Path, plans_name: str, notes: list[str]) -> dict[str, dict[str, str]]:
    """Configuration -> cases that could not be preprocessed -> reason, from the report beside the plans."""
    path = root / f"{plans_name}_report.json"
    if not path.is_file():
        return {}
    try:
        return dict(read_json(path)["skipped"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        notes.append(f"{path.name} cannot be read ({error}): cases that failed in preprocessing are not known")
        return {}


def _facts(
    root: Path,
    name: str,
    plans: dict[str, Any],
    fingerprint: Mapping[str, Any] | None,
    failed: Mapping[str, Mapping[str, str]],
) -> PlanFacts:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(copy.deepcopy(plans))
    configurations = []
    for key in plans["configurations"]:
        settings = manager.get_configuration(key).configuration
        if not settings.get("previous_stage") and "patch_size" in settings:
            configurations.append(_configuration(root, key, settings, plans, fingerprint, failed.get(key, {})))
    schemes = configurations[0].normalization if configurations else ()
    intensity = plans.get("foreground_intensity_properties_per_channel") or {}
    clip = {
        c: (float(intensity[str(c)]["percentile_00_5"]), float(intensity[str(c)]["percentile_99_5"]))
        for c, scheme in enumerate(schemes)
        if scheme == "CTNormalization" and str(c) in intensity
    }
    like = plans.get("nnssl_like") or {}
    return PlanFacts(
        name=name,
        planner=str(plans.get("experiment_planner_used", "unknown")),
        like=f"{like['dataset_name']}, {like['plans_name']}" if like else "",
        reader=plans.get("image_reader_writer"),
        made=made(root / f"{name}.json"),
        axes=tuple(int(a) for a in plans.get("transpose_forward", (0, 1, 2))),
        configurations=tuple(configurations),
        clip=clip,
    )


def _configuration(
    root: Path,
    name: str,
    settings: Mapping[str, Any],
    plans: Mapping[str, Any],
    fingerprint: Mapping[str, Any] | None,
    failed: Mapping[str, str],
) -> ConfigurationFacts:
    identifier = settings["data_identifier"]
    cases, labelled, problem = 0, 0, ""
    folders: tuple[str, ...] = (identifier,)
    try:
        pool = read_pool(root, identifier)
        cases, labelled = len(pool), sum(c.labelled for c in pool.cases)
        folders = tuple(sorted({c.folder for c in pool.cases}))
        check_origin(pool, fingerprint, plans, settings)
    except NnsslError as error:
        problem = str(error)
    except (ValueError, KeyError, TypeError) as error:
        problem = f"the index of the preprocessed cases is damaged ({error}): run nnssl_plan_and_preprocess again"
    patch = tuple(int(n) for n in settings["patch_size"])
    architecture = settings.get("architecture") or {}
    return ConfigurationFacts(
        name=name,
        patch=patch,
        spacing=crop_spacing(settings),
        median=tuple(float(n) for n in settings["median_image_size_in_voxels"]),
        batch_size=int(settings["batch_size"]),
        normalization=tuple(settings["normalization_schemes"]),
        network=str(architecture.get("network_class_name", "unknown")).rsplit(".", 1)[-1],
        stages=_stages(architecture.get("arch_kwargs") or {}, patch),
        cases=cases,
        labelled_cases=labelled,
        failed=failed,
        problem=problem,
        data_folders=tuple(root / f for f in folders),
    )


def _stages(kwargs: Mapping[str, Any], patch: Sequence[int]) -> tuple[Stage, ...]:
    """Stages of nnU-Net's networks; none where a network does not list features, kernels and strides."""
    if not all(k in kwargs for k in ("features_per_stage", "kernel_sizes", "strides")):
        return ()
    count = len(kwargs["features_per_stage"])
    blocks = kwargs.get("n_blocks_per_stage", kwargs.get("n_conv_per_stage", 0))
    blocks = list(blocks) if isinstance(blocks, (list, tuple)) else [blocks] * count
    size, stages = tuple(patch), []
    for features, stride, kernel, n in zip(
        kwargs["features_per_stage"], kwargs["strides"], kwargs["kernel_sizes"], blocks
    ):
        stride = tuple(np.broadcast_to(stride, len(patch)).tolist())
        kernel = tuple(np.broadcast_to(kernel, len(patch)).tolist())
        size = tuple(-(-a // b) for a, b in zip(size, stride))
        stages.append(Stage(int(features), stride, kernel, int(n), size))
    return tuple(stages)
