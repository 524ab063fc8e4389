"""The encoder of a classifier: of a dataset's plans, or, for images that have no plans, of a file of weights alone."""

from __future__ import annotations

import logging
from typing import Any

import torch

from nnssl.errors import NnsslError
from nnssl.evaluate.classify.settings import ClassifySettings
from nnssl.evaluate.features import RANDOM, Extractor, extractor_for
from nnssl.transfer import Target, Weights
from nnssl.transfer.architecture import check_names
from nnssl.transfer.reading import read_weights

log = logging.getLogger(__name__)

CONFIGURATION = "encoder"
RESAMPLING = "resample_data_or_seg_to_shape"


def own_plans(weights: Weights, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plans and dataset.json that a file of weights describes: its network, spacing and normalisation.

    Raises:
        NnsslError: the file does not say what it is.
    """
    known = weights.pretraining
    if weights.architecture is None or not known.patch_size or not known.normalization:
        raise NnsslError(f"{where} does not say what network and images it is for: give plans with -d, -p and -c")
    check_names(weights.architecture, where)
    if not known.spacing:
        log.warning(
            "%s does not say what voxel size it is for: images are taken at 1 mm; plans (-d, -p, -c) say more", where
        )
    names = known.channel_names or tuple(f"channel{c}" for c in range(weights.channels))
    data = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": CONFIGURATION,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(known.patch_size),
        "spacing": list(known.spacing or (1.0,) * len(known.patch_size))[-len(known.patch_size) :],
        "normalization_schemes": list(known.normalization),
        "use_mask_for_norm": [False] * weights.channels,
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_data_kwargs": data,
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_seg_kwargs": {**data, "is_seg": True, "order": 1},
        "architecture": dict(weights.architecture),
    }
    plans = {
        "dataset_name": "none",
        "plans_name": CONFIGURATION,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": dict(known.intensity),
        "configurations": {CONFIGURATION: configuration},
    }
    described = {"channel_names": {str(c): n for c, n in enumerate(names)}, "labels": {"background": 0}}
    return plans, {**described, "file_ending": ".nii.gz"}


def own_extractor(settings: ClassifySettings, device: torch.device) -> tuple[Extractor, dict[str, Any], dict[str, Any]]:
    """The encoder that `settings.init` holds, with the plans and dataset.json that it describes."""
    if settings.init == RANDOM:
        raise NnsslError("an untrained encoder needs plans that say what it is: give -d, -p and -c")
    weights = read_weights(settings.init)
    plans, dataset_json = own_plans(weights, settings.init)
    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    target = Target(architecture, weights.channels, weights.pretraining)
    patch = plans["configurations"][CONFIGURATION]["patch_size"]
    options: dict[str, Any] = {"levels": settings.levels, "pooling": settings.pooling, "seed": settings.seed}
    return extractor_for(target, patch, weights, device=device, **options), plans, dataset_json
