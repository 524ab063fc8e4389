"""Files of weights as other programs write them, from small networks of dynamic_network_architectures."""

from __future__ import annotations

import copy
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.primus import Primus
from torch import nn

from nnssl.networks import build_unet
from nnssl.transfer.adapt.keys import first_name, is_second_name

PRIMUS = {"embed_dim": 96, "patch_embed_size": (4, 4, 4), "eva_depth": 2, "eva_numheads": 4, "init_values": 0.1}


def plain_conv(architecture: dict) -> dict:
    """The same topology without residual blocks."""
    changed = copy.deepcopy(architecture)
    changed["network_class_name"] = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    changed["arch_kwargs"]["n_conv_per_stage"] = changed["arch_kwargs"].pop("n_blocks_per_stage")
    return changed


def flat(architecture: dict) -> dict:
    """The same network in 2D."""
    changed = copy.deepcopy(architecture)
    kwargs = changed["arch_kwargs"]
    kwargs |= {k: [v[1:] for v in kwargs[k]] for k in ("kernel_sizes", "strides")}
    kwargs["conv_op"], kwargs["norm_op"] = (kwargs[k].replace("3d", "2d") for k in ("conv_op", "norm_op"))
    return changed


def trained_unet(architecture: dict, channels: int = 1, seed: int = 3) -> nn.Module:
    """A network whose every tensor differs from a fresh one's."""
    torch.manual_seed(seed)
    network = build_unet(architecture, channels, 3)
    for value in network.parameters():
        nn.init.normal_(value)
    return network


def trained_primus(shape: tuple[int, ...] = (16, 16, 24), channels: int = 1, seed: int = 3, **kwargs: Any) -> Primus:
    torch.manual_seed(seed)
    network = Primus(input_channels=channels, num_classes=3, input_shape=shape, **{**PRIMUS, **kwargs})
    for value in network.parameters():
        nn.init.normal_(value)
    return network


def adaptation_plan(architecture: dict | str, channels: int = 1, **changes: Any) -> dict[str, Any]:
    """The block of MIC-DKFZ/nnssl; a text as `architecture` is a short name such as ResEncL."""
    described: dict[str, Any] = {
        "arch_class_name": architecture,
        "arch_kwargs": None,
        "arch_kwargs_requiring_import": None,
    }
    plain = False
    if isinstance(architecture, dict):
        plain = architecture["network_class_name"].endswith("PlainConvUNet")
        described = {
            "arch_class_name": architecture["network_class_name"],
            "arch_kwargs": architecture["arch_kwargs"],
            "arch_kwargs_requiring_import": architecture["_kw_requires_import"],
        }
    first = "encoder.stages.0.0.convs.0" if plain else "encoder.stem.convs.0"
    return {
        "architecture_plans": described,
        "pretrain_plan": {
            "dataset_name": "Dataset745_OpenNeuro",
            "plans_name": "nnsslPlans",
            "configurations": {"onemmiso": {"spacing": [1.0, 1.0, 1.0], "patch_size": [8, 16, 16]}},
        },
        "pretrain_num_input_channels": channels,
        "recommended_downstream_patchsize": [8, 16, 16],
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stages.0" if plain else "encoder.stem",
        "keys_to_in_proj": [f"{first}.conv", f"{first}.all_modules.0"],
        "key_to_lpe": None,
        **changes,
    }


def openmind(weights: dict[str, torch.Tensor], plan: dict[str, Any]) -> dict[str, Any]:
    """Content of a file of MIC-DKFZ/nnssl, with a NumPy number as its trainers leave them."""
    return {
        "network_weights": weights,
        "nnssl_adaptation_plan": plan,
        "citations": ["Wald et al. 2025"],
        "current_epoch": 1000,
        "_best_ema": np.float32(0.25),
    }


def spark(network: nn.Module) -> dict[str, torch.Tensor]:
    """State of a network whose `.conv` copies of the encoder are stale: those under `all_modules` were trained."""
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    for key in list(weights):
        if key.startswith("encoder.") and is_second_name(key):
            weights[first_name(key)] = torch.zeros_like(weights[key])
    return weights


def nnunet_plans(architecture: dict, channels: int = 1) -> dict[str, Any]:
    """Plans with the one configuration `3d_fullres`."""
    return {
        "dataset_name": "Dataset901_Target",
        "plans_name": "nnUNetResEncUNetMPlans",
        "transpose_forward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": {"mean": 40.0, "percentile_99_5": 240.0}},
        "configurations": {
            "3d_fullres": {
                "spacing": [3.0, 1.0, 1.0],
                "patch_size": [8, 16, 16],
                "normalization_schemes": ["CTNormalization"] * channels,
                "use_mask_for_norm": [False] * channels,
                "architecture": architecture,
            }
        },
    }


def nnunet_checkpoint(
    network: nn.Module, architecture: dict, channels: int = 1, trainer: str = "nnUNetTrainer"
) -> dict:
    """Content of nnU-Net's checkpoint: its log and its best value are NumPy numbers, its device a torch.device."""
    names = {str(i): ("CT", "PET", "T1", "T2")[i] for i in range(channels)}
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": torch.optim.SGD(network.parameters(), lr=0.1).state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "val_losses": [np.float32(-0.5)], "lrs": [0.01]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1,
        "init_args": {
            "plans": nnunet_plans(architecture, channels),
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": {"channel_names": names, "labels": {"background": 0, "a": 1, "b": 2}},
            "device": torch.device("cuda:0"),
        },
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


class Malicious:
    """Its unpickling would leave a file named `owned` in the working folder."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch owned",)


class Pickled:
    """Its unpickling calls what it is told."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def declare_more(path: Path, numel: int, legacy: bool = False) -> None:
    """A torch file of one tensor that declares `numel` values and holds four."""
    buffer = io.BytesIO()
    torch.save({"encoder.stem.weight": torch.zeros(4)}, buffer, _use_new_zipfile_serialization=not legacy)
    content = buffer.getvalue()
    if legacy:
        path.write_bytes(_larger(content, numel))
        return
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, _larger(data, numel) if entry.filename.endswith("data.pkl") else data)


def _larger(pickled: bytes, numel: int) -> bytes:
    """A pickle in which every 4 (one byte) is `numel` (eight bytes): storage and tensor say the same size."""
    four = pickle.BININT1 + b"\x04"
    assert pickled.count(four) >= 2
    return pickled.replace(four, pickle.LONG1 + b"\x08" + struct.pack("<q", numel))
