"""From an encoder file to the file that nnU-Net's own `-pretrained_weights` takes.

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
from typing import Any, Literal

import torch
from torch import distributed as dist
from torch import nn

from nnssl.errors import NnsslError
from nnssl.files import atomic_path
from nnssl.networks import build_unet
from nnssl.transfer.encoder_file import EncoderFile
from nnssl.transfer.report import LoadReport, part_of

Decoder = Literal["fresh", "pretrained"]


def complete_network(
    source: EncoderFile, architecture: Mapping[str, Any], channels: int, decoder: Decoder, seed: int
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """All weights of a target network but its segmentation layers, the encoder taken from the file.

    Args:
        source: pretrained encoder.
        architecture: the target plans' `architecture` block.
        channels: the target's image channels.
        decoder: take the decoder from the file, or initialise it as nnU-Net does.
        seed: for what is initialised.

    Raises:
        NnsslError: the target's encoder differs from the file's in topology or channels; or a pretrained decoder is
            asked for and the file has none.
    """
    check_topology(source, architecture, channels)
    if decoder == "pretrained" and not source.has_decoder:
        raise NnsslError("the file holds no pretrained decoder: use --decoder fresh")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_unet(architecture, channels, out_channels=2)
    state = {k: v for k, v in network.state_dict().items() if ".seg_layers." not in k}
    report, used = LoadReport(), set()
    for key, fresh in state.items():
        origin = key.replace("decoder.encoder.", "encoder.")
        wanted = origin.startswith("encoder.") or decoder == "pretrained"
        found = source.network_weights.get(origin) if wanted else None
        if found is not None and found.shape == fresh.shape:
            state[key] = found
            used.add(origin)
        if origin == key and ".all_modules." not in key:  # count a shared tensor once
            (report.loaded if origin in used else report.new)[part_of(key)] += fresh.numel()
    for key, value in source.network_weights.items():
        if key not in used and ".all_modules." not in key:
            report.unused[part_of(key)] += value.numel()
    if report.encoder_coverage < 1:
        raise NnsslError(
            f"only {100 * report.encoder_coverage:.1f} % of the target's encoder would be pretrained:\n"
            + "\n".join(report.lines())
        )
    return state, report


def check_topology(source: EncoderFile, architecture: Mapping[str, Any], channels: int) -> None:
    """Refuse a target whose encoder is another one, and name what differs."""
    ours, theirs = source.architecture["arch_kwargs"], architecture["arch_kwargs"]
    differences = []
    names = source.architecture["arch_class_name"], architecture["network_class_name"]
    if names[0].rsplit(".", 1)[-1] != names[1].rsplit(".", 1)[-1]:
        differences.append(f"network: file {names[0].rsplit('.', 1)[-1]}, target {names[1].rsplit('.', 1)[-1]}")
    relevant = (
        "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_blocks_per_stage", "n_conv_per_stage",
        "conv_bias", "norm_op",
    )  # fmt: skip
    for key in relevant:
        a, b = _listed(ours.get(key)), _listed(theirs.get(key))
        if a != b:
            differences.append(f"{key}: file {a}, target {b}")
    in_file = source.nnssl_adaptation_plan["pretrain_num_input_channels"]
    if in_file != channels:
        differences.append(f"input channels: file {in_file}, target {channels}")
    if differences:
        raise NnsslError(
            "the pretrained encoder does not fit the target's plans (" + "; ".join(differences) + "). "
            "Plan the pool with --like TARGET --like-plans PLANS and pretrain on those plans"
        )


def write_nnunet_init(
    source: EncoderFile,
    path: Path | str,
    *,
    architecture: Mapping[str, Any],
    channels: int,
    decoder: Decoder,
    seed: int,
) -> LoadReport:
    """Write the weights file for `nnUNetv2_train -pretrained_weights` and check it with nnU-Net's own loader."""
    state, report = complete_network(source, architecture, channels, decoder, seed)
    content = {"network_weights": state, "nnssl_load_report": report.as_dict(), "nnssl_decoder": decoder}
    with atomic_path(path) as temporary:  # the file appears under its name only after it has passed
        torch.save(content, temporary)
        _verify_apart(temporary, source, architecture, channels)
    return report


def _verify_apart(path: Path, source: EncoderFile, architecture: Mapping[str, Any], channels: int) -> None:
    """Verify; in a distributed run in a process of its own, because there nnU-Net's loader wants a GPU per rank."""
    if not (dist.is_available() and dist.is_initialized()):
        verify_nnunet_init(path, source, architecture, channels)
        return
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(_verify_only, path, source, architecture, channels).result()


def _verify_only(path: Path, source: EncoderFile, architecture: Mapping[str, Any], channels: int) -> None:
    verify_nnunet_init(path, source, architecture, channels)


def verify_nnunet_init(
    path: Path | str, source: EncoderFile, architecture: Mapping[str, Any], channels: int, classes: int = 3
) -> nn.Module:
    """Trial load by nnU-Net's loader into a freshly built network; every encoder tensor must then be the file's.

    Returns:
        The loaded network.
    """
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    with torch.random.fork_rng(devices=[]):
        network = build_unet(architecture, channels, classes, deep_supervision=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            load_pretrained_weights(network, str(path), verbose=False)
    except AssertionError as error:
        raise NnsslError(f"{path}: nnU-Net's loader refuses the file: {' '.join(str(error).split())[:300]}") from error
    encoder = network.encoder.state_dict()  # type: ignore[union-attr]
    wrong = [k for k, v in encoder.items() if not torch.equal(v, source.network_weights[f"encoder.{k}"])]
    if wrong:
        raise NnsslError(f"{path}: after nnU-Net loaded it, {len(wrong)} encoder tensors differ, first {wrong[0]}")
    return network


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, (list, tuple)) else value
