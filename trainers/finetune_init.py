"""Pretrained weights that a fine-tuning trainer finds in the plans and fits to its network by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from nnssl.trainers.finetune_settings import FinetuneSettings
from torch import nn

from nnssl.errors import NnsslError
from nnssl.transfer import LoadReport, Target, complete_network
from nnssl.transfer.adapt import parse_channel_map
from nnssl.transfer.adapt.rescale import rescale_kernels
from nnssl.transfer.nnunet_init import Decoder
from nnssl.transfer.reading import read_weights


def adapted(
    settings: FinetuneSettings, target: Target
) -> tuple[dict[str, torch.Tensor], LoadReport, Mapping[str, Any]]:
    """The weights that the plans' block names, fitted to a target.

    Args:
        settings: of the plans' block; `init` is set.
        target: the network's plans.

    Returns:
        All weights but the segmentation layers', the report, and the provenance that the file carries (empty for
        foreign files).

    Raises:
        NnsslError: the file is missing, damaged, or does not fit.
    """
    assert settings.init is not None
    weights = read_weights(settings.init, settings.key_prefix)
    decoder: Decoder = settings.decoder or ("pretrained" if weights.has_decoder else "fresh")
    state, report = complete_network(
        weights,
        target,
        decoder,
        settings.seed or 0,
        channel_map=parse_channel_map(settings.channel_map) if settings.channel_map else None,
        min_coverage=1.0 if settings.min_coverage is None else settings.min_coverage,
    )
    if settings.rescale:
        state, kernels = rescale_kernels(state)
        report.remarks.append(f"{kernels} kernels before norms were brought to the size of fresh ones (rescale)")
    return state, report, weights.provenance


def brings_decoder(settings: FinetuneSettings) -> bool:
    """Whether the weights that the plans' block names will fill the decoder."""
    if settings.init is None or settings.decoder is not None:
        return settings.decoder == "pretrained"
    return read_weights(settings.init, settings.key_prefix).has_decoder


def load_into(unet: nn.Module, settings: FinetuneSettings, target: Target) -> tuple[LoadReport, Mapping[str, Any]]:
    """Load the weights that the plans' block names into nnU-Net's freshly initialised network; see `adapted`."""
    state, report, provenance = adapted(settings, target)
    missing, unexpected = unet.load_state_dict(state, strict=False)
    if unexpected or any(".seg_layers." not in key for key in missing):
        raise NnsslError(f"{settings.init}: keys do not fit the plans' network: {[*unexpected, *missing][:3]}")
    return report, provenance


def seen_in_pretraining(
    provenance: Mapping[str, Any], fingerprint: Mapping[str, Any] | None, cases: Sequence[str]
) -> list[str]:
    """Cases whose voxels the pretraining saw, or known other scans of their patients; empty where one side has no digests.

    Args:
        provenance: of the pretrained weights.
        fingerprint: of the target, made by nnssl.
        cases: names to look for, the validation cases of a fold.
    """
    known = {*provenance.get("case_digests", ()), *(provenance.get("subject_scan_digests") or ())}
    digests = (fingerprint or {}).get("nnssl", {}).get("cases", {})
    return [name for name in cases if digests.get(name) in known]
