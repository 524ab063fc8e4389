"""Files of MIC-DKFZ/nnssl, among them the OpenMind models: they describe themselves by an `nnssl_adaptation_plan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nnssl.errors import NnsslError
from nnssl.transfer.adapt.network import input_projection
from nnssl.transfer.architecture import IMPORTED, UNETS, check_names, contradiction, res_enc_l
from nnssl.transfer.loading import TENSORS
from nnssl.transfer.names import Tensors, bare, dense_tensors, first_names, only_unet, shown, strip_wrappers
from nnssl.transfer.readers import primus
from nnssl.transfer.source import Pretraining, Weights

KIND = "file of MIC-DKFZ/nnssl"


def recognises(content: Mapping[str, Any]) -> bool:
    """Whether the file has the block that MIC-DKFZ/nnssl writes."""
    return isinstance(content.get("nnssl_adaptation_plan"), Mapping) and isinstance(content.get(TENSORS), Mapping)


def read(content: Mapping[str, Any], where: str) -> Weights:
    """Weights, network and what the plan says about the images.

    In files of its SparK the copies under `all_modules` are the trained ones: where the two names of a tensor differ, they
    are taken, with a note.

    Raises:
        NnsslError: the plan does not fit the tensors, or names a network that nnssl does not know.
    """
    plan = content["nnssl_adaptation_plan"]
    described = plan.get("architecture_plans") or {}
    name = str(described.get("arch_class_name", "")).rsplit(".", 1)[-1]
    tensors, notes = strip_wrappers(dense_tensors(content[TENSORS], where))
    images, said = _images(plan)
    notes += said
    citations = tuple(c if isinstance(c, str) else str(c) for c in content.get("citations") or ())
    if name.startswith("Primus"):
        tensors = _moved(tensors, plan, where, primus.PARTS)
        return primus.weights(f"{KIND} ({name})", tensors, described, images, notes, citations, where)
    if name not in (*UNETS, "ResEncL"):
        raise NnsslError(
            f"{where}: its network is '{described.get('arch_class_name')}'; ResEncL, PlainConvUNet, ResidualEncoderUNet and "
            "Primus can be read"
        )
    stem = "encoder.stages.0" if name == "PlainConvUNet" else "encoder.stem"
    tensors = _moved(tensors, plan, where, {"key_to_encoder": "encoder.stages", "key_to_stem": stem})
    tensors, said = first_names(tensors, where, trust_second=True)
    notes += said
    tensors, said = only_unet(tensors)
    notes += said
    architecture: dict[str, Any] | None = _architecture(name, described, where)
    wrong = contradiction(architecture, tensors) if architecture else "arch_kwargs are missing"
    if wrong:
        architecture = None
        notes.append(f"the file's description of its network does not fit its tensors and is not used ({wrong})")
    channels = int(tensors[input_projection(tensors)].shape[1])
    if channels != plan.get("pretrain_num_input_channels", channels):
        notes.append(f"the file says {plan['pretrain_num_input_channels']} input channels, its tensors have {channels}")
    return Weights(f"{KIND} ({name})", tensors, architecture, channels, images, citations=citations, notes=tuple(notes))


def _architecture(name: str, described: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    kwargs = described.get("arch_kwargs")
    if name == "ResEncL" and not kwargs:
        return res_enc_l()
    if not isinstance(kwargs, Mapping):
        return None
    architecture = {
        "network_class_name": UNETS.get(name, UNETS["ResidualEncoderUNet"]),
        "arch_kwargs": dict(kwargs),
        "_kw_requires_import": list(described.get("arch_kwargs_requiring_import") or IMPORTED),
    }
    check_names(architecture, where)
    return architecture


def _moved(tensors: Tensors, plan: Mapping[str, Any], where: str, ours: Mapping[str, str]) -> Tensors:
    """Tensors under nnU-Net's names: the plan says under which names the parts lie.

    Args:
        tensors: without wrappers in their names.
        plan: the adaptation plan.
        where: the file, for errors.
        ours: for each of the plan's keys the name of that part here.
    """
    pairs = []
    for key, name in ours.items():
        prefix = bare(str(plan.get(key) or name))
        if name == "encoder.stages" and any(k.startswith(f"{prefix}.stages.") for k in tensors):
            prefix = f"{prefix}.stages"  # some files name the encoder rather than its stages
        if not any(k.startswith(f"{prefix}.") for k in tensors):
            raise NnsslError(f"{where}: its plan says {key} = {prefix}, but its tensors are named {shown(tensors)}")
        pairs.append((f"{prefix}.", f"{name}."))
        root = prefix.removesuffix(name)
        if root != prefix and root and name == "encoder.stages":
            pairs.append((f"{root}decoder.", "decoder."))
    pairs.sort(key=lambda p: -len(p[0]))
    moved: dict[str, torch.Tensor] = {}
    for key, value in tensors.items():
        old, new = next(((o, n) for o, n in pairs if key.startswith(o)), ("", ""))
        moved[new + key[len(old) :]] = value
    return moved


def _images(plan: Mapping[str, Any]) -> tuple[Pretraining, list[str]]:
    """What the plan says about the images: of the configuration whose patch size it recommends, else of the first."""
    configurations = (plan.get("pretrain_plan") or {}).get("configurations") or {}
    known = [(n, c) for n, c in configurations.items() if isinstance(c, Mapping)]
    if not known:
        return Pretraining(patch_size=_numbers(plan.get("recommended_downstream_patchsize"), int)), []
    patch = plan.get("recommended_downstream_patchsize")
    fitting = [(n, c) for n, c in known if patch and c.get("patch_size") and list(c["patch_size"]) == list(patch)]
    name, configuration = (fitting or known)[0]
    notes = []
    if len(known) > 1:
        names = ", ".join(str(n) for n, _ in known)
        notes.append(f"the file names several configurations ({names}); spacing and patch size are those of {name}")
    schemes = configuration.get("normalization_schemes") or ()
    images = Pretraining(
        spacing=_numbers(configuration.get("spacing"), float),
        patch_size=_numbers(configuration.get("patch_size") or patch, int),
        normalization=tuple(str(s) for s in ([schemes] if isinstance(schemes, str) else schemes)),
    )
    return images, notes


def _numbers(values: Any, kind: type) -> Any:
    """A tuple of numbers, or None where the file has something else, such as a word for 'not resampled'."""
    if not isinstance(values, (list, tuple)) or not values or not all(isinstance(v, (int, float)) for v in values):
        return None
    return tuple(kind(v) for v in values)
