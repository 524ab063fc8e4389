"""From a method to what a step runs: memory format, frozen biases, checkpointing, executor, compilation, processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from nnssl.trainers.executor import settle_executor
from nnssl.trainers.memory import memory_lines
from nnssl.trainers.precision import settle_memory_format
from nnssl.trainers.self_check import check_convolutions
from torch import nn

from nnssl.errors import NnsslError
from nnssl.networks import checkpoint_stages
from nnssl.networks.sparse import BATCH_NORMS, CONVOLUTIONS, INSTANCE_NORMS

if TYPE_CHECKING:
    from nnssl.trainers.pretraining import nnsslTrainer


def prepare_network(trainer: nnsslTrainer) -> list[str]:
    """Make `trainer.network` from `trainer.method`, which is on its device.

    Returns:
        Lines for the log.

    Raises:
        NnsslError: a setting does not fit the method, or the device computes wrongly.
    """
    run, method, lines = trainer.run, trainer.method, list[str]()
    if run.accumulate > 1:
        check_accumulation(trainer)
        lines.append(f"accumulate: {run.accumulate} parts of at most {micro_batch(trainer)} crops per process and step")
    if settle_memory_format(run.memory_format, trainer.device, trainer.precision) == "channels_last":
        lines.append(f"memory format: weights of {to_channels_last(method)} convolutions in channels-last order")
    if run.freeze_biases:
        lines.append(f"frozen: {freeze_biases(method)} biases of convolutions right in front of a norm")
    if run.checkpointing:
        lines.append(f"checkpointing: {checkpoint_stages(method)} stages are computed again for the backward pass")
    lines += settle_executor(trainer)
    lines += check_convolutions(method, trainer.device, trainer.precision, micro_batch(trainer), trainer._autocast())
    lines += memory_lines(trainer, micro_batch(trainer))
    # torch has none for a CPU; heads see all processes' rows anyway
    if trainer.is_ddp and trainer.device.type == "cuda":
        trainer.method = method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    network: Any = method
    if trainer._do_i_compile():
        network = torch.compile(method)
    if trainer.is_ddp:
        ids = [trainer.device] if trainer.device.type == "cuda" else None
        network = nn.parallel.DistributedDataParallel(network, device_ids=ids)
    trainer.network = network
    return lines


def micro_batch(trainer: nnsslTrainer) -> int:
    """Crops that are worked on at once in this process, at most."""
    return max(rows.stop - rows.start for rows, _ in trainer.micro_batches())


def check_accumulation(trainer: nnsslTrainer) -> None:
    """Refuse to work through a batch in parts where the parts would not add up to the batch.

    Raises:
        NnsslError: crops of the batch meet in the loss, or there are fewer crops than parts.
    """
    run = trainer.run
    if not trainer.method.crops_alone:
        raise NnsslError(
            f"accumulate={run.accumulate}: in {run.method} the crops of a batch meet (negatives, batch statistics or what a "
            "teacher or queue keeps), so its parts are not the batch. Leave it out; checkpointing=true saves memory too"
        )
    smallest = (run.batch_size or 1) // trainer.world_size
    if smallest < run.accumulate:
        raise NnsslError(
            f"accumulate={run.accumulate}: a process has only {smallest} crop(s) of each batch: raise --batch-size to "
            f"{run.accumulate * trainer.world_size}, or lower accumulate"
        )


def to_channels_last(module: nn.Module) -> int:
    """Put the weights of convolutions into channels-last memory; their outputs then follow. Values stay as they are.

    Returns:
        How many weights.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    weights = [p for p in module.parameters() if p.ndim in formats]
    for weight in weights:
        weight.data = weight.data.contiguous(memory_format=formats[weight.ndim])
    return len(weights)


def freeze_biases(module: nn.Module) -> int:
    """Stop the learning of biases that a norm right behind their convolution takes off again.

    They move the mean that is subtracted, so their gradient is rounding alone, which Adam would turn into a random walk. The
    biases stay where they are in the network and in every file.

    Returns:
        How many.
    """
    biases = {id(conv.bias): conv.bias for conv in _before_norms(module) if conv.bias is not None}
    for bias in biases.values():
        bias.requires_grad_(False)
    return len(biases)


def _before_norms(module: nn.Module) -> Iterator[Any]:
    for chain in module.modules():
        if isinstance(chain, nn.Sequential):
            for conv, norm in zip(list(chain), list(chain)[1:]):
                if type(conv) in CONVOLUTIONS and type(norm) in (*INSTANCE_NORMS, *BATCH_NORMS):
                    yield conv
