"""What differs between pretraining and target: what cannot be carried over, and what can but should be known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnssl.errors import NnsslError
from nnssl.transfer.readers.backbone import is_backbone_file
from nnssl.transfer.source import Pretraining, Weights

SPACING_APART = 1.5
"""Factor between two spacings from which structures look clearly larger or smaller to the network."""


def check_kind(source: Weights, architecture: Mapping[str, Any]) -> None:
    """Refuse a target whose network is of another kind.

    Raises:
        NnsslError: plain convolutions on one side, residual blocks on the other; or no U-Net of nnU-Net's.
    """
    target = str(architecture["network_class_name"]).rsplit(".", 1)[-1]
    residual = "Residual" in target
    if "eva.blocks.0.norm1.weight" in source.tensors:
        raise NnsslError(
            f"the file holds a Primus, the target's plans want a {target}. nnU-Net's trainers put a Primus in its place: "
            "nnssl_export --network primus_s (or _b, _m, _l)"
        )
    if not is_unet(architecture):
        _check_same(source, architecture, target)
        return
    if is_backbone_file(source):
        raise NnsslError(
            f"the file holds the weights of a 2D image backbone (or of a 2D network under other names: --key-prefix), the "
            f"target's plans want a {target}: plan the target with nnssl_plan_and_preprocess --encoder NAME, with timm's "
            "name of that backbone"
        )
    if source.architecture is not None and not is_unet(source.architecture):
        theirs = str(source.architecture["network_class_name"]).rsplit(".", 1)[-1]
        raise NnsslError(f"the file holds a {theirs}, the target's plans want a {target}: nothing can be carried over")
    planner = "-pl nnUNetPlannerResEncM" if source.residual else "-pl ExperimentPlanner"
    if residual != source.residual:
        raise NnsslError(
            f"the file holds a {_kind(source)}, the target's plans want a {target}: a residual block adds its input to its "
            "result and a plain one does not, so the weights of one mean nothing in the other. Plan the target with "
            f"nnUNetv2_plan_experiment {planner}"
        )


def is_unet(architecture: Mapping[str, Any]) -> bool:
    """Whether a network is one of nnU-Net's own two U-Nets, whose weights can be fitted."""
    return str(architecture["network_class_name"]).rsplit(".", 1)[-1] in ("PlainConvUNet", "ResidualEncoderUNet")


def _check_same(source: Weights, architecture: Mapping[str, Any], target: str) -> None:
    """Another network than nnU-Net's U-Nets takes weights of the very same one only."""
    if is_backbone_file(source) and "backbone" in architecture["arch_kwargs"]:
        return
    ours = source.architecture
    if ours is None or ours["network_class_name"] != architecture["network_class_name"]:
        what = "a network that it does not describe" if ours is None else str(ours["network_class_name"])
        raise NnsslError(
            f"the target's network is a {target}, the file holds {what.rsplit('.', 1)[-1]}: nothing can be carried over"
        )
    names = [side["arch_kwargs"].get("backbone") for side in (ours, architecture)]
    if names[0] != names[1]:
        raise NnsslError(f"the file was pretrained on the backbone {names[0]}, the target's plans want {names[1]}")


def _kind(source: Weights) -> str:
    return "residual encoder" if source.residual else "plain convolutional encoder"


def network_remarks(source: Weights, architecture: Mapping[str, Any]) -> list[str]:
    """Sentences about differences of the networks that no tensor shows."""
    if is_backbone_file(source):
        return []  # the names have shown that it is the target's backbone
    if source.architecture is None:
        return ["the file does not describe its network: strides and norms could not be compared"]
    ours, theirs = source.architecture["arch_kwargs"], architecture["arch_kwargs"]
    remarks = []
    a, b = _lists(ours.get("strides")), _lists(theirs.get("strides"))
    if a != b and len(a[0]) == len(b[0]):
        remarks.append(f"strides differ (file {a}, target {b}): the stages see other distances than they learned")
    for key, what in (("norm_op", "norm"), ("nonlin", "activation")):
        mine, other = (str(k.get(key)).rsplit(".", 1)[-1].rstrip("123d") for k in (ours, theirs))
        if mine != other:
            remarks.append(f"the {what} differs (file {mine}, target {other}): activations have another scale at first")
    return remarks


def image_remarks(source: Pretraining, target: Pretraining) -> list[str]:
    """Sentences about differences of the images."""
    remarks = []
    if source.spacing and target.spacing and len(source.spacing) == len(target.spacing):
        factors = [max(a / b, b / a) for a, b in zip(source.spacing, target.spacing)]
        if max(factors) >= SPACING_APART:
            remarks.append(
                f"spacing differs: {_mm(source.spacing)} in pretraining, {_mm(target.spacing)} in the target; the same "
                f"structure has up to {max(factors):.1f} times the size in voxels"
            )
    if source.normalization and target.normalization and set(source.normalization) != set(target.normalization):
        remarks.append(
            f"normalisation differs: {', '.join(source.normalization)} in pretraining, "
            f"{', '.join(target.normalization)} in the target"
        )
    elif "CTNormalization" in target.normalization:
        remarks += _ct_remarks(source.intensity, target.intensity)
    if source.orientation and target.orientation and source.orientation != target.orientation:
        remarks.append(f"orientation differs: {source.orientation} in pretraining, {target.orientation} in the target")
    names = tuple(n.casefold() for n in source.channel_names), tuple(n.casefold() for n in target.channel_names)
    if all(names) and names[0] != names[1]:
        remarks.append(
            f"channels differ: {', '.join(source.channel_names)} in pretraining, {', '.join(target.channel_names)} in the "
            "target"
        )
    return remarks


def _ct_remarks(source: Mapping[str, Any], target: Mapping[str, Any]) -> list[str]:
    if "0" not in source or "0" not in target:
        return []
    keys = ("percentile_00_5", "percentile_99_5", "mean", "std")
    a, b = ([float(side["0"][k]) for k in keys] for side in (source, target))
    if all(abs(x - y) <= 1 for x, y in zip(a, b)):
        return []
    return [
        f"CT is clipped to [{a[0]:.0f}, {a[1]:.0f}] HU and scaled by {a[2]:.0f} +- {a[3]:.0f} in pretraining, to "
        f"[{b[0]:.0f}, {b[1]:.0f}] and {b[2]:.0f} +- {b[3]:.0f} in the target: the same tissue has another value. Plan one "
        "with --like the other to have the same numbers"
    ]


def _lists(value: Any) -> list[list[int]]:
    return [[int(n) for n in (v if isinstance(v, (list, tuple)) else [v])] for v in value or [[]]]


def _mm(spacing: tuple[float, ...]) -> str:
    return "x".join(f"{s:.3g}" for s in spacing) + " mm"
