"""Weights of a Primus for nnU-Net's Primus trainers, which build the network themselves and leave the plans' aside."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnssl.errors import NnsslError
from nnssl.files import atomic_path
from nnssl.transfer import torch_files
from nnssl.transfer.adapt.channels import ChannelMap
from nnssl.transfer.adapt.primus import adapt_primus
from nnssl.transfer.compare import image_remarks
from nnssl.transfer.readers.primus import grid_of
from nnssl.transfer.report import LoadReport
from nnssl.transfer.source import Weights
from nnssl.transfer.target import target_of

TRAINERS = {f"primus_{size}": f"nnUNet_Primus_{size.upper()}_Trainer" for size in "sbml"}
"""`--network` -> trainer of nnU-Net."""
TOKEN = 8
"""Edge of a token in these trainers' networks, in voxels."""


def build_primus(name: str, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]) -> nn.Module:
    """The network that nnU-Net's trainer builds for a target.

    Raises:
        NnsslError: this nnU-Net has no such trainer, or the target's patch size cannot be cut into tokens.
    """
    try:
        from nnunetv2.training.nnUNetTrainer.primus import primus_trainers
    except ImportError as error:
        raise NnsslError("this nnU-Net has no trainers for Primus: install nnunetv2 2.8.1 or newer") from error
    manager = PlansManager(dict(plans))
    settings = manager.get_configuration(configuration)
    patch = [int(n) for n in settings.patch_size]
    if len(patch) != 3 or any(n % TOKEN for n in patch):
        raise NnsslError(
            f"the patch size of {configuration} is {'x'.join(map(str, patch))}; a Primus cuts 3D patches into cubes of "
            f"{TOKEN} voxels: plan with a patch size that is a multiple of {TOKEN}"
        )
    if settings.previous_stage_name is not None:
        raise NnsslError(f"{configuration} is the second stage of a cascade; a Primus has none: name another with -c")
    labels = manager.get_label_manager(dict(dataset_json))
    channels = len(dataset_json.get("channel_names") or dataset_json["modality"])
    with contextlib.redirect_stdout(io.StringIO()):
        return getattr(primus_trainers, TRAINERS[name]).build_network_architecture(
            manager, settings, channels, labels.num_segmentation_heads, False
        )


def write_primus_init(
    source: Weights,
    path: Path | str,
    name: str,
    *,
    plans: Mapping[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    fingerprint: Mapping[str, Any] | None,
    seed: int,
    channel_map: ChannelMap | None = None,
    min_coverage: float = 1.0,
) -> LoadReport:
    """Write the file for `nnUNetv2_train -tr nnUNet_Primus_M_Trainer -pretrained_weights`; checked by a trial load.

    The decoder of a Primus is as wide as there are classes, and nnU-Net's loader insists on every tensor: so the file is for
    this target's labels only, unlike that of a U-Net.

    Args:
        source: weights of a Primus.
        path: file to write.
        name: one of `TRAINERS`.
        plans, configuration, dataset_json, fingerprint: of the target.
        seed: of what is initialised.
        channel_map: see `nnssl.transfer.adapt.channels`.
        min_coverage: share of the encoder that must come from the file.

    Raises:
        NnsslError: the file holds no Primus, or one of another size; or too little of the encoder would be covered.
    """
    if "eva.blocks.0.norm1.weight" not in source.tensors:
        raise NnsslError(f"the file holds no Primus ({source.kind}): leave --network {name} out")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_primus(name, plans, configuration, dataset_json)
    settings = PlansManager(dict(plans)).get_configuration(configuration)
    grid = [int(n) // TOKEN for n in settings.patch_size]
    state, report = adapt_primus(
        source.tensors,
        network.state_dict(),
        source_grid=grid_of(source),
        target_grid=grid,
        channel_map=channel_map,
    )
    images = target_of(plans, settings.configuration, dataset_json, fingerprint).images
    report.remarks += [*source.notes, *image_remarks(source.pretraining, images)]
    if report.encoder_coverage < min_coverage:
        raise NnsslError(
            f"only {100 * report.encoder_coverage:.1f} % of the target's encoder would be pretrained, "
            f"{100 * min_coverage:g} % are asked for (--min-coverage says how much is enough):\n"
            + "\n".join(report.lines())
        )
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            torch_files.write({"network_weights": state, "nnssl_load_report": report.as_dict()}, file)
        _verify(temporary, state, build_primus(name, plans, configuration, dataset_json))
    return report


def _verify(path: Path, state: Mapping[str, torch.Tensor], network: nn.Module) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            load_pretrained_weights(network, str(path), verbose=False)
    except AssertionError as error:
        raise NnsslError(f"{path}: nnU-Net's loader refuses the file: {' '.join(str(error).split())[:300]}") from error
    loaded = network.state_dict()
    wrong = [k for k, v in state.items() if not torch.equal(v, loaded[k])]
    if wrong:
        raise NnsslError(f"{path}: after nnU-Net loaded it, {len(wrong)} tensors differ, first {wrong[0]}")
