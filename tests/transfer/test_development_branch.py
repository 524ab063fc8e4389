"""Our files under the rules of nnU-Net's development branch, as an oracle of our own knows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nnssl.transfer import EncoderFile, pack_encoder, write_encoder
from tests.oracles import development_branch
from tests.transfer.foreign_files import adaptation_plan, flat, nnunet_plans, openmind, plain_conv, trained_unet

VARIANTS = {"residual": lambda a: a, "plain": plain_conv, "2d": flat, "plain 2d": lambda a: flat(plain_conv(a))}


def packed(network: nn.Module, architecture: dict, channels: int) -> EncoderFile:
    dimensions = len(architecture["arch_kwargs"]["strides"][0])
    return pack_encoder(
        network.encoder, network.decoder, plans=nnunet_plans(architecture, channels), configuration_name="c",
        configuration={
            "architecture": architecture, "patch_size": (8, 16, 16)[:dimensions],
            "spacing": np.array([3.0, 1, 1])[:dimensions],
        },
        channels=channels, provenance={"method": "spark", "steps": np.int64(3)}, citations=["somebody"],
    )  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_our_files_are_accepted_and_compute_the_same(
    unet_3d: dict, tmp_path: Path, variant: str, channels: int
) -> None:
    architecture = VARIANTS[variant](unet_3d)
    network = trained_unet(architecture, channels)
    write_encoder(packed(network, architecture, channels), tmp_path / "encoder.pth")
    loaded = development_branch.load_encoder(tmp_path / "encoder.pth")
    x = torch.randn(1, channels, *[16] * len(architecture["arch_kwargs"]["strides"][0]))
    for a, b in zip(loaded.encoder(x), network.encoder(x)):
        assert torch.equal(a, b)


def untie(content: dict[str, Any]) -> None:
    key = "encoder.stages.1.blocks.0.conv1.all_modules.0.weight"
    content["network_weights"][key] = content["network_weights"][key] + 1


def other_plan(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["nnssl_adaptation_plan"].update(changes)


BREAKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "untied": untie,
    "channels": other_plan(pretrain_num_input_channels=4),
    "encoder": other_plan(key_to_encoder="model.stages"),
    "first convolution": other_plan(keys_to_in_proj=["encoder.stem.convs.0.conv", "encoder.stem.convs.0.other"]),
    "positions": other_plan(key_to_lpe="eva.pos_embed"),
    "tuple": other_plan(recommended_downstream_patchsize=(8, 16, 16)),
    "kwargs": lambda c: c["nnssl_adaptation_plan"]["architecture_plans"]["arch_kwargs"].pop("nonlin_kwargs"),
    "class": lambda c: c["nnssl_adaptation_plan"]["architecture_plans"].update(arch_class_name="SwinUNETR"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_oracle_sees_what_breaks_the_rules(unet_3d: dict, tmp_path: Path, name: str) -> None:
    weights = {k: v.clone() for k, v in trained_unet(unet_3d).state_dict().items()}
    content = openmind(weights, adaptation_plan(unet_3d))
    content.pop("_best_ema")
    torch.save(content, tmp_path / "fine.pth")
    development_branch.load_encoder(tmp_path / "fine.pth")
    BREAKS[name](content)
    torch.save(content, tmp_path / "broken.pth")
    with pytest.raises((AssertionError, KeyError)):
        development_branch.load_encoder(tmp_path / "broken.pth")
