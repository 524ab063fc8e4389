"""What nnU-Net's development branch checks when it reads a self-supervised checkpoint, written down slowly and on its own.

Nothing of nnssl is used here, so that a mistake there cannot hide.
"""

from __future__ import annotations

import pydoc
from pathlib import Path
from typing import Any

import torch
from torch import nn

SHORT = ("ResEncL", "PrimusS", "PrimusB", "PrimusM", "PrimusL")
UNETS = ("ResidualEncoderUNet", "PlainConvUNet")
KWARGS = {
    "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage_decoder", "conv_bias",
    "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs",
}  # fmt: skip
IMPORTED = ["conv_op", "norm_op", "dropout_op", "nonlin"]


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and adaptation plan of a file, every rule of that reader asserted."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    weights, plan = content["network_weights"], content["nnssl_adaptation_plan"]
    assert_plain(plan)
    if "citations" in content:
        assert all(isinstance(c, str) for c in content["citations"])

    described = plan["architecture_plans"]
    name = described["arch_class_name"]
    assert name in SHORT or name.rsplit(".", 1)[-1] in UNETS
    if name not in SHORT:
        blocks = "n_blocks_per_stage" if name.endswith("ResidualEncoderUNet") else "n_conv_per_stage"
        assert set(described["arch_kwargs"]) == {*KWARGS, blocks}
        assert sorted(described["arch_kwargs_requiring_import"]) == sorted(IMPORTED)

    configurations = plan["pretrain_plan"]["configurations"]
    assert plan["pretrain_plan"]["dataset_name"]
    assert plan["pretrain_plan"]["plans_name"]
    for configuration in configurations.values():
        assert len(configuration["spacing"]) == len(configuration["patch_size"])
    assert len(plan["recommended_downstream_patchsize"]) in (2, 3)

    for part in ("key_to_encoder", "key_to_stem"):
        assert any(key.startswith(plan[part] + ".") for key in weights), part
    first = [weights[key + ".weight"] for key in plan["keys_to_in_proj"]]
    assert len(first) == 2
    for tensor in first:
        assert torch.equal(tensor, first[0])
        assert tensor.shape[1] == plan["pretrain_num_input_channels"]
    assert plan["key_to_lpe"] is None or plan["key_to_lpe"] in weights
    for key in weights:
        assert isinstance(weights[key], torch.Tensor)
        if ".all_modules.0." in key:
            assert torch.equal(weights[key], weights[key.replace(".all_modules.0.", ".conv.")]), key
    return weights, plan


def assert_plain(value: Any) -> None:
    """Only what JSON knows: no NumPy numbers, no paths, no objects, no tuples."""
    if type(value) is dict:
        for key, inner in value.items():
            assert type(key) is str
            assert_plain(inner)
    elif type(value) is list:
        for inner in value:
            assert_plain(inner)
    else:
        assert value is None or type(value) in (str, int, float, bool), type(value)


def load_encoder(path: Path) -> nn.Module:
    """A freshly built network whose stem and stages are loaded strictly from a file, as that branch loads them."""
    weights, plan = read(path)
    described = plan["architecture_plans"]
    kwargs = dict(described["arch_kwargs"])
    for key in described["arch_kwargs_requiring_import"]:
        if kwargs[key] is not None:
            kwargs[key] = pydoc.locate(kwargs[key])
    network_class: Any = pydoc.locate(described["arch_class_name"])
    network = network_class(
        input_channels=plan["pretrain_num_input_channels"], num_classes=2, deep_supervision=False, **kwargs
    )
    for part in dict.fromkeys((plan["key_to_stem"], plan["key_to_encoder"])):
        module = network.get_submodule(part)
        own = {key[len(part) + 1 :]: value for key, value in weights.items() if key.startswith(part + ".")}
        module.load_state_dict(own, strict=True)
    return network
