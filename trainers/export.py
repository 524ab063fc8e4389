"""From a finished run to the files a user takes away."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnssl.trainers.pools import fingerprint_of
from nnssl.trainers.saving import tolerated

from nnssl.data.pool import cases_by_dataset
from nnssl.disk import explain, retried
from nnssl.errors import NnsslError
from nnssl.methods import get_method
from nnssl.transfer import (
    EncoderFile,
    LoadReport,
    Target,
    pack_encoder,
    read_encoder,
    weights_of,
    write_encoder,
    write_nnunet_init,
)
from nnssl.transfer.nnunet_init import Decoder
from nnssl.transfer.provenance import provenance

if TYPE_CHECKING:
    from nnssl.trainers.pretraining import nnsslTrainer

ENCODER, NNUNET_INIT, SNAPSHOTS = "encoder.pth", "nnunet_init.pth", "snapshots"


def encoder_of(trainer: nnsslTrainer) -> EncoderFile:
    """The encoder file of a run as it stands."""
    exported = trainer.method.exported()
    run, plans = trainer.run, trainer.plans_manager.plans
    steps = trainer.state.epoch * trainer.num_iterations_per_epoch + trainer.state.step
    ancestors = trainer.ancestor.record["citations"] if trainer.ancestor else []
    files = {"init": run.init, "case_weights": run.case_weights}
    datasets = {name or plans["dataset_name"]: count for name, count in cases_by_dataset(trainer.train_pool).items()}
    return pack_encoder(
        exported.encoder,
        exported.decoder,
        plans=plans,
        configuration_name=trainer.configuration_name,
        configuration=trainer.configuration_manager.configuration,
        channels=trainer.num_input_channels,
        provenance=provenance(
            method=run.method,
            config={**run.model_dump(), **{k: v and Path(v).name for k, v in files.items()}},  # no paths leave
            steps=steps,
            plans=plans,
            configuration=trainer.configuration_name,
            fold=trainer.fold,
            fingerprint=fingerprint_of(plans["dataset_name"]),
            digests=trainer.pools.digests,
            other_scans=trainer.pools.other_scans,
            datasets=datasets,
            init=trainer.ancestor.record if trainer.ancestor else None,
            channel_names=list(trainer.dataset_json["channel_names"].values()),
        ),
        citations=list(dict.fromkeys([get_method(run.method).citation, *ancestors])),
    )


def export_rehearsal(trainer: nnsslTrainer) -> None:
    """Fail before the training, not after it: export the untrained network once, completely, and throw it away."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(trainer, Path(folder))
        read_encoder(Path(folder) / ENCODER)  # checks that shared tensors are still shared


def write_files(trainer: nnsslTrainer, folder: Path) -> tuple[LoadReport, Decoder]:
    """Write encoder.pth and nnunet_init.pth, the latter checked by nnU-Net's own loader."""
    encoder = encoder_of(trainer)
    decoder: Decoder = trainer.run.decoder or ("pretrained" if encoder.has_decoder else "fresh")
    write_encoder(encoder, folder / ENCODER)
    target = Target(trainer.configuration_manager.configuration["architecture"], trainer.num_input_channels)
    report = write_nnunet_init(
        weights_of(encoder), folder / NNUNET_INIT, target=target, decoder=decoder, seed=trainer.run.seed
    )
    return report, decoder


def write_snapshot(trainer: nnsslTrainer) -> None:
    """Write the encoder as it stands, where the run asks for one at this step; draws nothing random, changes nothing."""
    step = trainer.state.epoch * trainer.num_iterations_per_epoch + trainer.state.step
    if step not in trainer.run.snapshots or trainer.local_rank != 0:
        return
    path = _snapshot(trainer, step)

    def write() -> None:
        path.parent.mkdir(exist_ok=True)
        write_encoder(encoder_of(trainer), path)

    # a run that has gone back comes past here once more, and with other weights if it is at a lower rate
    say = trainer.print_to_log_file
    tolerated(lambda: retried(write, say, path, lambda: bool(trainer.stop)), path, say)


def forget_snapshots(trainer: nnsslTrainer) -> None:
    """Remove the snapshots of steps that lie before a run that has gone back: they are not what it will be there."""
    if trainer.local_rank != 0:
        return
    now = trainer.state.epoch * trainer.num_iterations_per_epoch + trainer.state.step
    for step in trainer.run.snapshots:
        if step > now:
            path = _snapshot(trainer, step)
            tolerated(partial(path.unlink, missing_ok=True), path, trainer.print_to_log_file)


def _snapshot(trainer: nnsslTrainer, step: int) -> Path:
    return Path(trainer.output_folder) / SNAPSHOTS / f"encoder_step_{step:06d}.pth"


def export_safely(trainer: nnsslTrainer) -> list[str]:
    """`export_run`, with patience where the disk is in the way.

    Raises:
        NnsslError: the disk stayed in the way; the final checkpoint is written and `--c` exports again.
    """
    lines: list[str] = []
    path = Path(trainer.output_folder) / ENCODER
    try:
        say, hurry = trainer.print_to_log_file, lambda: bool(trainer.stop)
        retried(lambda: lines.extend(export_run(trainer)), say, path, hurry)
    except OSError as error:
        raise NnsslError(
            f"{explain(error, path)}. The run is finished and saved; mend that, and --c exports it"
        ) from error
    return lines


def export_run(trainer: nnsslTrainer) -> list[str]:
    """Write a run's files into its folder.

    Returns:
        Lines for the log: the load report and the command that comes next.
    """
    folder = Path(trainer.output_folder)
    report, decoder = write_files(trainer, folder)
    return [
        f"{folder / ENCODER}: the pretrained encoder",
        f"{folder / NNUNET_INIT}: for nnUNetv2_train -pretrained_weights (decoder {decoder}); checked with its loader:",
        *report.lines(),
        "fine-tune with:",
        f"  nnUNetv2_train TARGET {trainer.configuration_name} FOLD -p PLANS -tr nnUNetTrainer_SSLWarmup "
        f"-pretrained_weights {folder / NNUNET_INIT}",
    ]
