"""What a file of weights holds, in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nnssl.transfer.adapt.primus import primus_part
from nnssl.transfer.encoder_file import encoder_of
from nnssl.transfer.loading import TENSORS, load_content
from nnssl.transfer.reading import interpret
from nnssl.transfer.report import part_of
from nnssl.transfer.source import Weights


def describe_file(path: Path, keys: bool = False) -> list[str]:
    """Lines that describe a file of weights: ours, any that `nnssl.transfer.reading` reads, or a pretraining checkpoint.

    Args:
        path: the file.
        keys: also list every tensor.

    Raises:
        NnsslError: the file is none of these, damaged, or unsafe to read.
    """
    content = load_content(path)
    if "nnssl_checkpoint" in content:
        lines, weights = _checkpoint(content), content["method_state"]
    elif "nnssl_format" in content:
        encoder_of(content, str(path))
        lines, weights = _encoder(content), content[TENSORS]
    elif "nnssl_load_report" in content:
        lines, weights = _weights_file(content), content[TENSORS]
    else:
        source = interpret(content, str(path))
        lines, weights = _foreign(source), source.tensors
    size = f"{path.stat().st_size / 2**20:.1f} MiB"
    lines = [f"{path} ({size})", *lines, *_weights(weights)]
    if keys:
        lines += [f"  {k}  {tuple(v.shape)}  {str(v.dtype).removeprefix('torch.')}" for k, v in weights.items()]
    return lines


def _encoder(content: Mapping[str, Any]) -> list[str]:
    provenance, plan = content["provenance"], content["nnssl_adaptation_plan"]
    architecture = plan["architecture_plans"]
    kwargs = architecture["arch_kwargs"]
    (name, configuration), *_ = plan["pretrain_plan"]["configurations"].items()
    return [
        f"pretrained encoder, format {content.get('nnssl_format', 'unknown')}",
        f"method         {provenance.get('method')}, {provenance.get('steps'):,} steps, seed {provenance.get('seed')}",
        f"settings       {_short(provenance.get('config', {}))}",
        *_ancestors(provenance),
        f"pool           {', '.join(provenance.get('dataset_names', []))}: {provenance.get('cases')} cases, "
        f"{len(provenance.get('case_digests', []))} voxel digests, fold {provenance.get('fold')}",
        f"plans          {plan['pretrain_plan']['plans_name']}, {name}: patch {configuration['patch_size']}, "
        f"spacing {configuration['spacing']} mm, {', '.join(configuration['normalization_schemes'])}",
        f"network        {architecture['arch_class_name']}",
        f"               features {kwargs['features_per_stage']}, strides {kwargs['strides']}",
        f"input channels {plan['pretrain_num_input_channels']}",
        f"versions       {_short(provenance.get('versions', {}))}",
        *(f"cite           {c}" for c in content.get("citations", [])),
    ]


def _foreign(source: Weights) -> list[str]:
    """What a reader found in a file that another program wrote."""
    images, lines = source.pretraining, [source.kind]
    if source.architecture:
        kwargs = source.architecture["arch_kwargs"]
        shown = ("features_per_stage", "strides", "embed_dim", "eva_depth", "patch_embed_size", "input_shape")
        known = [f"{k.replace('_', ' ')} {kwargs[k]}" for k in shown if kwargs.get(k)]
        lines += [f"network        {source.architecture['network_class_name']}", f"               {', '.join(known)}"]
    else:
        lines.append("network        not described by the file")
    lines.append(f"input channels {source.channels}{_in_brackets(images.channel_names)}")
    if images.spacing or images.patch_size or images.normalization:
        spacing = f"{[round(s, 4) for s in images.spacing]} mm" if images.spacing else "not said"
        lines.append(
            f"images         patch {list(images.patch_size or ()) or 'not said'}, spacing {spacing}"
            f"{_in_brackets(images.normalization)}"
        )
    lines += [f"note           {n}" for n in source.notes]
    return [*lines, *(f"cite           {c}" for c in source.citations)]


def _in_brackets(words: Sequence[str]) -> str:
    return f" ({', '.join(words)})" if words else ""


def _ancestors(provenance: Mapping[str, Any]) -> list[str]:
    """The runs this one started from, the latest first."""
    lines = []
    while provenance.get("init"):
        provenance = provenance["init"]["provenance"]
        names = ", ".join(provenance.get("dataset_names", []))
        lines.append(f"started from   {provenance.get('method')}, {provenance.get('steps'):,} steps on {names}")
    return lines


def _weights_file(content: Mapping[str, Any]) -> list[str]:
    report = content.get("nnssl_load_report")
    lines = ["weights for nnUNetv2_train -pretrained_weights"]
    if report:
        share = 100 * report["encoder_coverage"]
        lines.append(f"decoder {content.get('nnssl_decoder')}; {share:.1f} % of the encoder pretrained")
    return lines


def _checkpoint(content: Mapping[str, Any]) -> list[str]:
    config = content["config"]
    return [
        f"pretraining checkpoint, format {content['nnssl_checkpoint']}",
        f"method {config['method']}, {content['epoch']} of {config['epochs']} epochs done, and {content['step']} of "
        f"{config['iterations']} steps of the next",
        f"settings {_short(config)}",
    ]


def _weights(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Number of values by part of the network, shared tensors counted once."""
    counts: dict[str, int] = defaultdict(int)
    for key, value in weights.items():
        if ".all_modules." not in key and "decoder.encoder." not in key and isinstance(value, torch.Tensor):
            counts[_part(key)] += value.numel()
    return [
        *(f"  {part:<16} {n:,} values" for part, n in sorted(counts.items())),
        f"  {'in all':<16} {sum(counts.values()):,} values",
    ]


def _part(key: str) -> str:
    if key.startswith(("encoder.", "decoder.")):
        return part_of(key)
    return primus_part(key) if key.startswith(("eva.", "down_projection.")) else "network"


def _short(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items() if v is not None)
