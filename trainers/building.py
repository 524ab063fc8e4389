"""What a pretraining run is made of: the pool it reads and the method on the plans' network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nnssl.trainers.run_config import CONFIG_FORMAT, RunConfig, method_config

from nnssl.data.loader import rank_share
from nnssl.data.pool import Pool, cases_by_dataset
from nnssl.data.spacing import crop_spacing
from nnssl.data.subjects import scans_of_subjects
from nnssl.errors import NnsslError
from nnssl.files import sha256_of
from nnssl.losses import Ranks
from nnssl.methods import CropBatch, Method, get_method
from nnssl.networks import build_unet
from nnssl.transfer import Target, complete_network
from nnssl.transfer.nnunet_init import Decoder
from nnssl.transfer.provenance import package_versions
from nnssl.transfer.reading import find_source, read_weights
from nnssl.views import Geometry

if TYPE_CHECKING:
    from nnssl.trainers.pretraining import nnsslTrainer


@dataclass(frozen=True)
class Ancestor:
    """The encoder a run started from.

    Attributes:
        record: for the provenance of what comes out of the run: digest of the file, its own provenance and what it
            asks to cite.
        lines: the load report.
    """

    record: dict[str, Any]
    lines: tuple[str, ...] = ()


def build_method(
    run: RunConfig, configuration: Mapping[str, Any], channels: int, init: Path | None = None
) -> tuple[Method, Ancestor | None]:
    """The method on the plans' network, initialised from the run's seed or from an encoder file.

    Args:
        run: the run's settings.
        configuration: of the plans, inheritance resolved.
        channels: image channels.
        init: encoder file to start from.
    """
    geometry = Geometry(tuple(int(n) for n in configuration["patch_size"]), crop_spacing(configuration))
    cls = get_method(run.method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        unet = build_unet(configuration["architecture"], channels, 1)
        # before the method copies teachers from it
        ancestor = None if init is None else load_init(unet, init, configuration["architecture"], channels, run.seed)
        return cls(unet, geometry, channels, method_config(cls, run.options)), ancestor


def load_init(unet: torch.nn.Module, path: Path, architecture: Mapping[str, Any], channels: int, seed: int) -> Ancestor:
    """Put pretrained weights, fitted where they differ, and their decoder if the file has one, into the plans' network.

    Raises:
        NnsslError: no such file, none that nnssl reads, or it cannot be fitted to the plans' network.
    """
    file = find_source(str(path))
    source = read_weights(str(path))
    decoder: Decoder = "pretrained" if source.has_decoder else "fresh"
    state, report = complete_network(source, Target(architecture, channels), decoder, seed)
    missing, unexpected = unet.load_state_dict(state, strict=False)
    if unexpected or any(".seg_layers." not in key for key in missing):
        raise NnsslError(f"--init {path}: keys do not fit the plans' network: {[*unexpected, *missing][:3]}")
    origin = source.provenance or {"method": source.kind, "steps": 0, "dataset_names": []}  # foreign files have none
    parent = {k: v for k, v in origin.items() if k not in ("plans", "fingerprint")}
    record = {"sha256": sha256_of(file), "provenance": parent, "citations": list(source.citations)}
    return Ancestor(record, tuple(report.lines()))


def crop_batch(item: Mapping[str, torch.Tensor]) -> CropBatch:
    """A batch as the loader hands it over."""
    partner = None
    if "partner_images" in item:
        partner = CropBatch(item["partner_images"], item["partner_inside"], item["partner_case"])
    return CropBatch(item["images"], item["inside"], item["case"], partner)


def describe_run(trainer: nnsslTrainer) -> dict[str, Any]:
    """What config.json says about a run."""
    return {
        "format": CONFIG_FORMAT,
        "config": trainer.run.model_dump(),
        "dataset": trainer.plans_manager.dataset_name,
        "plans": trainer.plans_manager.plans_name,
        "configuration": trainer.configuration_name,
        "fold": trainer.fold,
        "training_cases": len(trainer.train_pool),
        "cases_by_dataset": {
            n or trainer.plans_manager.dataset_name: c for n, c in cases_by_dataset(trainer.train_pool).items()
        },
        "device": str(trainer.device),
        "processes": trainer.world_size,
        "parameters": sum(p.numel() for p in trainer.method.parameters()),
        "versions": package_versions(),
    }


def refuse_empty_shares(batch_size: int | None, world: int) -> None:
    """Every process needs a crop of each batch; None = the plans' batch size, which is not known yet.

    Raises:
        NnsslError: more processes than crops.
    """
    if batch_size is not None and batch_size < world:
        raise NnsslError(
            f"a batch of {batch_size} crop(s) cannot be split over {world} processes: raise --batch-size to {world} or "
            "more, or start fewer"
        )


def assign_ranks(method: Method, batch_size: int, rank: int, world: int) -> None:
    """Tell a method how the batch is spread over processes."""
    if world > 1:
        method.assign_ranks(Ranks(tuple(len(rank_share(batch_size, r, world)) for r in range(world)), rank))


def check_reading(method: Method, pool: Pool) -> None:
    """Refuse what a method wants to read from the pool and the pool cannot give.

    Raises:
        NnsslError: positives from a subject's other scans where no subject has any; stacks of slices from a thinned pool.
    """
    if method.wants_partner and not scans_of_subjects([case.subject for case in pool.cases]):
        raise NnsslError(
            "positives=subject needs subjects with several scans, and the pool knows none: put a subjects.csv with the "
            "columns case,subject into the raw dataset's folder and run nnssl_plan_and_preprocess again"
        )
    if pool.kept is not None and len(method.read_size()) != 2:
        raise NnsslError(f"thin_slices leaves single slices, and {method.name} reads stacks of them: leave it out")
