"""The encoder file: everything about a pretrained encoder in one portable file.

`torch.load(weights_only=True)` reads it: CPU tensors and plain values only. It carries the adaptation plan that
nnU-Net's development branch understands, and a provenance without file names, case names or patient data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnssl.data.spacing import crop_spacing
from nnssl.errors import NnsslError
from nnssl.files import check_number
from nnssl.transfer import safetensors_files, torch_files
from nnssl.transfer.adapt.keys import is_second_name
from nnssl.transfer.digests import digests_of
from nnssl.transfer.loading import TENSORS, load_content
from nnssl.transfer.source import Pretraining, Weights

FORMAT = 1


@dataclass(frozen=True)
class EncoderFile:
    """Content of an encoder file.

    Attributes:
        network_weights: by the plans' key names, `encoder.*` and, where trained, `decoder.*`; a convolution's `.conv` and
            `.all_modules.0` names hold identical tensors.
        nnssl_adaptation_plan: architecture, pretraining plan and key names, in nnU-Net's schema.
        provenance: method, configuration, seed, steps, plans, fingerprint, versions, dataset, case digests.
        citations: what to cite.
    """

    network_weights: dict[str, torch.Tensor]
    nnssl_adaptation_plan: dict[str, Any]
    provenance: dict[str, Any]
    citations: list[str]

    @property
    def architecture(self) -> dict[str, Any]:
        """`arch_class_name`, `arch_kwargs` and `arch_kwargs_requiring_import`."""
        return self.nnssl_adaptation_plan["architecture_plans"]

    @property
    def has_decoder(self) -> bool:
        """Whether nnU-Net's decoder was trained too."""
        return any(k.startswith("decoder.") for k in self.network_weights)


def weights_of(content: EncoderFile, kind: str = "encoder file of nnssl") -> Weights:
    """The neutral form of an encoder file's content."""
    plan = content.nnssl_adaptation_plan
    architecture, pretraining = plan["architecture_plans"], plan["pretrain_plan"]
    configuration = next(iter(pretraining["configurations"].values()))
    plans = content.provenance.get("plans") or {}
    return Weights(
        kind=kind,
        tensors={k: v for k, v in content.network_weights.items() if not is_second_name(k)},
        architecture={
            "network_class_name": architecture["arch_class_name"],
            "arch_kwargs": architecture["arch_kwargs"],
            "_kw_requires_import": architecture["arch_kwargs_requiring_import"],
        },
        channels=int(plan["pretrain_num_input_channels"]),
        pretraining=Pretraining(
            spacing=_tuple(configuration.get("spacing"), float),
            patch_size=_tuple(configuration.get("patch_size"), int),
            normalization=tuple(configuration.get("normalization_schemes") or ()),
            channel_names=tuple(content.provenance.get("channel_names") or ()),
            intensity=plans.get("foreground_intensity_properties_per_channel") or {},
            orientation=content.provenance.get("orientation"),
        ),
        provenance=content.provenance,
        citations=tuple(content.citations),
    )


def _tuple(values: Any, kind: type) -> Any:
    return tuple(kind(v) for v in values) if values else None


def pack_encoder(
    encoder: nn.Module,
    decoder: nn.Module | None,
    *,
    plans: Mapping[str, Any],
    configuration_name: str,
    configuration: Mapping[str, Any],
    channels: int,
    provenance: dict[str, Any],
    citations: list[str],
) -> EncoderFile:
    """Put a trained encoder (and decoder) into the file's form.

    Args:
        encoder: the plans' encoder.
        decoder: the plans' decoder without segmentation layers, or None.
        plans: the whole plans.
        configuration_name: `2d`, `3d_fullres`, ...
        configuration: that configuration, inheritance resolved.
        channels: image channels.
        provenance, citations: see EncoderFile.
    """
    weights = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    if decoder is not None:
        kept = {k: v for k, v in decoder.state_dict().items() if not k.startswith(("encoder.", "seg_layers."))}
        weights |= {f"decoder.{k}": v for k, v in kept.items()}
    weights = _on_cpu(weights)
    adaptation = _adaptation_plan(weights, plans, configuration_name, configuration, channels)
    return EncoderFile(weights, adaptation, _plain_values(provenance), list(citations))


def write_encoder(content: EncoderFile, path: Path | str) -> None:
    """Write an encoder file atomically, as safetensors if the name ends so."""
    values = {
        "nnssl_format": FORMAT,
        TENSORS: content.network_weights,
        "nnssl_adaptation_plan": content.nnssl_adaptation_plan,
        "provenance": content.provenance,
        "citations": content.citations,
        "digests": digests_of(content.network_weights),
    }
    if Path(path).suffix == ".safetensors":
        safetensors_files.save(values, TENSORS, path)
    else:
        torch_files.save(values, path)


def read_encoder(path: Path | str) -> EncoderFile:
    """Read an encoder file, a torch or a safetensors one.

    Raises:
        NnsslError: missing, damaged, of a newer format, or not an encoder file.
    """
    return encoder_of(load_content(path), str(path))


def encoder_of(content: Mapping[str, Any], where: str) -> EncoderFile:
    """The encoder file in a file's content; errors as `read_encoder`."""
    missing = [k for k in (TENSORS, "nnssl_adaptation_plan", "provenance") if k not in content]
    if missing:
        raise NnsslError(f"{where} is not an encoder file ({', '.join(missing)} missing): give the run's encoder.pth")
    check_number(content, "nnssl_format", FORMAT, where)
    _check_types(content, where)
    weights = content[TENSORS]
    check_aliases(weights, where)
    return EncoderFile(
        weights, content["nnssl_adaptation_plan"], content["provenance"], list(content.get("citations", []))
    )


def _check_types(content: Mapping[str, Any], where: str) -> None:
    """Every part is what it should be; what is in the parts is the readers' business."""
    kinds: dict[str, Any] = {"nnssl_adaptation_plan": Mapping, "provenance": Mapping, TENSORS: Mapping}
    if "citations" in content:
        kinds["citations"] = (list, tuple)
    for key, kind in kinds.items():
        if not isinstance(content[key], kind):
            raise NnsslError(f"{where} is damaged: {key} is a {type(content[key]).__name__}")
    wrong = [k for k, v in content[TENSORS].items() if not isinstance(v, torch.Tensor)]
    if wrong:
        raise NnsslError(f"{where} is damaged: {str(wrong[0])[:80]} is no tensor")


def check_aliases(weights: Mapping[str, torch.Tensor], where: str) -> None:
    """A convolution's two names must hold the same values: nnU-Net would load the second over the first."""
    for key, value in weights.items():
        twin = key.replace(".all_modules.0.", ".conv.")
        if twin != key and twin in weights and not torch.equal(weights[twin], value):
            raise NnsslError(f"{where}: {twin} and {key} are one convolution but differ; the file's writer untied them")


def _adaptation_plan(
    weights: Mapping[str, torch.Tensor],
    plans: Mapping[str, Any],
    name: str,
    configuration: Mapping[str, Any],
    channels: int,
) -> dict[str, Any]:
    """The block that nnU-Net's development branch reads to adapt the encoder to a target."""
    architecture = configuration["architecture"]
    stages, stem, projections = "encoder.stages", "encoder.stem", ["encoder.stem.convs.0"]
    if not any(k.startswith("encoder.stem.") for k in weights):
        stem, projections = "encoder.stages.0", ["encoder.stages.0.0.convs.0"]
    if f"{projections[0]}.conv.weight" in weights:
        projections = [f"{projections[0]}.{name}" for name in ("conv", "all_modules.0")]
    else:  # another network than nnU-Net's U-Nets: its first convolution is the first one there is
        first = next(k for k, v in weights.items() if k.startswith("encoder.") and v.ndim > 3)
        stages, stem, projections = "encoder", "encoder", [first.removesuffix(".weight")]
    keep = ("patch_size", "normalization_schemes", "use_mask_for_norm", "batch_size")
    plan = {
        "architecture_plans": {
            "arch_class_name": architecture["network_class_name"],
            "arch_kwargs": architecture["arch_kwargs"],
            "arch_kwargs_requiring_import": list(architecture["_kw_requires_import"]),
        },
        "pretrain_plan": {
            "dataset_name": plans["dataset_name"],
            "plans_name": plans["plans_name"],
            "transpose_forward": plans["transpose_forward"],
            "foreground_intensity_properties_per_channel": plans["foreground_intensity_properties_per_channel"],
            "configurations": {
                name: {k: configuration[k] for k in keep if k in configuration}
                | {"spacing": list(crop_spacing(configuration))}
            },
        },
        "pretrain_num_input_channels": channels,
        "recommended_downstream_patchsize": list(configuration["patch_size"]),
        "key_to_encoder": stages,
        "key_to_stem": stem,
        "keys_to_in_proj": projections,
        "key_to_lpe": None,
    }
    return _plain_values(plan)


def _on_cpu(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the CPU; names that share a tensor share its copy, which also halves the file."""
    copies: dict[int, torch.Tensor] = {}
    for value in weights.values():
        if value.data_ptr() not in copies:
            copies[value.data_ptr()] = value.detach().cpu().clone().contiguous()
    return {key: copies[value.data_ptr()] for key, value in weights.items()}


def _plain_values(value: Any) -> Any:
    """Turn tuples, numpy numbers and paths into what JSON knows, so that no reader needs our classes."""
    if isinstance(value, Mapping):
        return {str(k): _plain_values(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_values(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "tolist"):
        return _plain_values(value.tolist())
    raise TypeError(f"{type(value).__name__} does not belong into an encoder file")
