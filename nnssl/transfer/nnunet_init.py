"""From pretrained weights to the file that nnU-Net's own `-pretrained_weights` takes.

nnU-Net insists on every key of the target but `.seg_layers.`, with equal shapes: `encoder.*`, `decoder.*` and the
decoder's reference to the encoder, `decoder.encoder.*`. Segmentation layers are left out, so one file serves any labels.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from torch import distributed as dist
from torch import nn

from nnssl.data.parallel import ignore_signals
from nnssl.errors import NnsslError
from nnssl.files import atomic_path
from nnssl.networks import build_unet
from nnssl.transfer import torch_files
from nnssl.transfer.adapt import adapt_network
from nnssl.transfer.adapt.backbone import PREFIX, encoder_names
from nnssl.transfer.adapt.cascade import for_images_alone, with_blind_channels
from nnssl.transfer.adapt.channels import ChannelMap, match_names
from nnssl.transfer.adapt.same import same_network
from nnssl.transfer.compare import check_kind, image_remarks, is_unet, network_remarks
from nnssl.transfer.readers.backbone import is_backbone_file
from nnssl.transfer.report import LoadReport
from nnssl.transfer.source import Weights
from nnssl.transfer.target import Target

Decoder = Literal["fresh", "pretrained"]


def complete_network(
    source: Weights,
    target: Target,
    decoder: Decoder,
    seed: int,
    *,
    channel_map: ChannelMap | None = None,
    min_coverage: float = 1.0,
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """All weights of a target network but its segmentation layers, as much as possible taken from the file.

    Args:
        source: pretrained weights.
        target: network and images they are for.
        decoder: take the decoder from the file, or initialise it as nnU-Net does.
        seed: for what is initialised.
        channel_map: see `nnssl.transfer.adapt.channels`; None = by channel names where they decide, else by number.
        min_coverage: share of the target's encoder that must come from the file, in [0, 1].

    Raises:
        NnsslError: the target's encoder is of another kind or width, or less than `min_coverage` of it would be
            pretrained; or a pretrained decoder is asked for and the file has none.
    """
    check_kind(source, target.architecture)
    if decoder == "pretrained" and not source.has_decoder:
        raise NnsslError("the file holds no pretrained decoder: use --decoder fresh")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_unet(target.architecture, target.channels, out_channels=2)
    if channel_map is None:
        channel_map = _map_by_names(source, target)
        if channel_map is not None and _is_second_stage(source, target):
            channel_map = [*channel_map, *range(target.image_channels, target.channels)]
    fresh = {k: v for k, v in network.state_dict().items() if ".seg_layers." not in k}
    if is_unet(target.architecture):
        extra = 0 if _is_second_stage(source, target) else target.segmentations
        state, report = adapt_network(
            source.tensors,
            for_images_alone(fresh, extra),
            source_stages=source.stages,
            target_stages=len(network.encoder.stages),  # type: ignore[union-attr, arg-type]
            decoder=decoder == "pretrained",
            channel_map=channel_map,
        )
        state = with_blind_channels(state, extra, report)
    else:
        state, report = _of_same_network(source, fresh, network, target, decoder, channel_map)
    report.remarks += source.notes
    report.remarks += network_remarks(source, target.architecture) + image_remarks(source.pretraining, target.images)
    if report.encoder_coverage < min_coverage:
        raise NnsslError(
            f"only {100 * report.encoder_coverage:.1f} % of the target's encoder would be pretrained, "
            f"{100 * min_coverage:g} % are asked for (nnssl_export --min-coverage says how much is enough):\n"
            + "\n".join(report.lines())
        )
    return state, report


def _is_second_stage(source: Weights, target: Target) -> bool:
    """Whether the file holds a cascade's second stage like the target, so that it knows all of its channels."""
    images = len(source.pretraining.channel_names)
    return 0 < images < source.channels and (source.channels, images) == (target.channels, target.image_channels)


def _of_same_network(
    source: Weights,
    fresh: Mapping[str, torch.Tensor],
    network: nn.Module,
    target: Target,
    decoder: Decoder,
    channel_map: ChannelMap | None,
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """For networks other than nnU-Net's U-Nets: the file's own, or a U-Net on the backbone that the file holds."""
    tensors, notes = source.tensors, list[str]()
    if is_backbone_file(source):
        name = str(target.architecture["arch_kwargs"].get("backbone"))
        tensors, notes = encoder_names(tensors, fresh, name, source.kind)
    stages = network.encoder.stage_of_parameters()  # type: ignore[union-attr, operator]
    state, report = same_network(
        tensors,
        fresh,
        decoder=decoder == "pretrained",
        channels=(source.channels, target.channels),
        channel_map=channel_map,
        stage_of={f"{PREFIX}{key}": number for key, number in stages.items()},
    )
    report.remarks += notes
    return state, report


def _map_by_names(source: Weights, target: Target) -> list[int | None] | None:
    """A mapping by channel names, where it says something that the order of the channels does not."""
    mapping = match_names(source.pretraining.channel_names, target.images.channel_names)
    if not mapping or (len(mapping) == source.channels and mapping == list(range(len(mapping)))):
        return None
    return mapping


def write_nnunet_init(
    source: Weights,
    path: Path | str,
    *,
    target: Target,
    decoder: Decoder,
    seed: int,
    channel_map: ChannelMap | None = None,
    min_coverage: float = 1.0,
) -> LoadReport:
    """Write the weights file for `nnUNetv2_train -pretrained_weights` and check it with nnU-Net's own loader."""
    state, report = complete_network(source, target, decoder, seed, channel_map=channel_map, min_coverage=min_coverage)
    content = {"network_weights": state, "nnssl_load_report": report.as_dict(), "nnssl_decoder": decoder}
    with atomic_path(path) as temporary:  # the file appears under its name only after it has passed
        with temporary.open("wb") as file:
            torch_files.write(content, file)
        _verify_apart(temporary, state, target)
    return report


def _verify_apart(path: Path, state: Mapping[str, torch.Tensor], target: Target) -> None:
    """Verify; in a distributed run in a process of its own, because there nnU-Net's loader wants a GPU per rank."""
    if not (dist.is_available() and dist.is_initialized()):
        verify_nnunet_init(path, state, target)
        return
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=ignore_signals) as pool:
        pool.submit(_verify_only, path, dict(state), target).result()


def _verify_only(path: Path, state: Mapping[str, torch.Tensor], target: Target) -> None:
    verify_nnunet_init(path, state, target)


def verify_nnunet_init(
    path: Path | str, state: Mapping[str, torch.Tensor], target: Target, classes: int = 3
) -> nn.Module:
    """Trial load by nnU-Net's loader into a freshly built network; every tensor must then be what was meant.

    Args:
        path: the weights file.
        state: what it is meant to hold, under all names.
        target: the network.
        classes: segmentation channels of the trial network; the file does not depend on them.

    Returns:
        The loaded network.
    """
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    with torch.random.fork_rng(devices=[]):
        network = build_unet(target.architecture, target.channels, classes, deep_supervision=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            load_pretrained_weights(network, str(path), verbose=False)
    except AssertionError as error:
        raise NnsslError(f"{path}: nnU-Net's loader refuses the file: {' '.join(str(error).split())[:300]}") from error
    loaded = network.state_dict()
    wrong = [k for k, v in state.items() if not torch.equal(v, loaded[k])]
    if wrong:
        raise NnsslError(f"{path}: after nnU-Net loaded it, {len(wrong)} tensors differ, first {wrong[0]}")
    return network
