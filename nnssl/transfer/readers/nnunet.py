"""nnU-Net's checkpoints: supervised pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnssl.errors import NnsslError
from nnssl.transfer.adapt.network import input_projection
from nnssl.transfer.architecture import UNETS, check_names, contradiction
from nnssl.transfer.loading import TENSORS
from nnssl.transfer.names import dense_tensors, first_names, only_unet, rename, strip_wrappers
from nnssl.transfer.readers import primus
from nnssl.transfer.source import Pretraining, Weights


def recognises(content: Mapping[str, Any]) -> bool:
    """Whether this is a checkpoint of an nnU-Net trainer, with the plans it was trained with."""
    arguments = content.get("init_args")
    return (
        isinstance(content.get(TENSORS), Mapping)
        and isinstance(arguments, Mapping)
        and isinstance(arguments.get("plans"), Mapping)
        and arguments.get("configuration") in arguments["plans"].get("configurations", {})
    )


def read(content: Mapping[str, Any], where: str, key_prefix: str | None = None) -> Weights:
    """Weights without segmentation layers, the plans' network, and what the plans say about the images.

    Raises:
        NnsslError: the two names of a tensor differ, or the network is none of nnU-Net's U-Nets or Primus.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    arguments, trainer = content["init_args"], str(content.get("trainer_name"))
    plans, name = arguments["plans"], str(arguments["configuration"])
    tensors, notes = strip_wrappers(dense_tensors(content[TENSORS], where))
    if key_prefix:
        tensors, said = rename(tensors, key_prefix, where)
        notes += said
    try:
        manager = PlansManager(dict(plans))
        configuration = manager.get_configuration(name).configuration
    except Exception as error:  # plans from a file: nnU-Net's handling stumbles wherever they are not as expected
        raise NnsslError(f"{where}: nnU-Net cannot read the plans in it ({type(error).__name__}: {error})") from error
    kind = f"checkpoint of nnU-Net ({trainer}, {plans.get('dataset_name')}, {plans.get('plans_name')}, {name})"
    images, said = _images(plans, configuration, arguments.get("dataset_json") or {})
    notes += said
    if primus.is_primus(tensors):
        return primus.weights(kind, tensors, {}, images, notes, (), where)
    tensors, said = first_names(tensors, where)
    notes += said
    tensors, said = only_unet(tensors)
    notes += said
    architecture = configuration.get("architecture")
    if not architecture or str(architecture["network_class_name"]).rsplit(".", 1)[-1] not in UNETS:
        wrong: str | None = f"the plans' network is {architecture and architecture['network_class_name']}"
    else:
        check_names(architecture, where)
        wrong = contradiction(architecture, tensors)
    if wrong:
        notes.append(f"{trainer} did not train the network of its plans, so these do not describe it ({wrong})")
        architecture = None
    channels = int(tensors[input_projection(tensors)].shape[1])
    return Weights(kind, tensors, architecture, channels, images, notes=tuple(notes))


def _images(
    plans: Mapping[str, Any], configuration: Mapping[str, Any], dataset: Mapping[str, Any]
) -> tuple[Pretraining, list[str]]:
    names = dataset.get("channel_names") or dataset.get("modality") or {}
    schemes = tuple(configuration.get("normalization_schemes") or ())
    notes = []
    if configuration.get("previous_stage"):
        notes.append("trained as the second stage of a cascade: its input channels beyond the images are segmentations")
    images = Pretraining(
        spacing=tuple(float(s) for s in configuration["spacing"]),
        patch_size=tuple(int(n) for n in configuration["patch_size"]),
        normalization=schemes,
        channel_names=tuple(str(names[k]) for k in names),
        intensity=plans.get("foreground_intensity_properties_per_channel") or {},
    )
    return images, notes
