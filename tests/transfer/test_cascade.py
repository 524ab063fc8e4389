"""nnU-Net's cascade: the second stage's network has channels for the first one's segmentation, which no file knows."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.networks import build_unet
from nnssl.transfer import Pretraining, Target, complete_network, target_of, weights_of, write_nnunet_init
from nnssl.transfer.source import Weights
from tests.conftest import run_command
from tests.transfer.test_transfer import trained

STEM = "encoder.stem.convs.0.conv.weight"


def cascade(plans: dict) -> dict:
    """Plans of size S with a second stage that nnU-Net would plan for larger images."""
    plans = copy.deepcopy(plans)
    configurations = plans["configurations"]
    configurations["3d_lowres"] = {**configurations["3d_fullres"], "next_stage": "3d_cascade_fullres"}
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    return {**plans, "plans_name": "cascadePlans"}


@pytest.mark.parametrize("decoder", ["fresh", "pretrained"])
def test_the_network_begins_as_the_pretrained_one(unet_3d: dict, tmp_path: Path, decoder: str) -> None:
    source = weights_of(trained(unet_3d))
    target = Target(unet_3d, 3, segmentations=2)
    report = write_nnunet_init(source, tmp_path / "init.pth", target=target, decoder=decoder, seed=0)
    state = torch.load(tmp_path / "init.pth", weights_only=True)["network_weights"]
    assert torch.equal(state[STEM][:, :1], source.tensors[STEM])
    assert not state[STEM][:, 1:].any()
    assert report.encoder_coverage == 1
    assert report.adapted["stem"] == state[STEM][:, 1:].numel()
    assert any("begin at 0" in remark for remark in report.remarks)
    network, image = build_unet(unet_3d, 3, 2), torch.randn(1, 1, 8, 16, 16)
    network.load_state_dict(state, strict=False)
    alone = build_unet(unet_3d, 1, 2)
    alone.load_state_dict(complete_network(source, Target(unet_3d, 1), decoder, 0)[0], strict=False)
    with torch.no_grad():
        first = network.encoder(torch.cat([image, torch.randint(0, 2, (1, 2, 8, 16, 16))], dim=1))[-1]
        assert torch.allclose(first, alone.encoder(image)[-1], rtol=1e-3, atol=1e-4)


def test_channels_are_mapped_among_images_only(unet_3d: dict) -> None:
    source = weights_of(trained(unet_3d))
    state, _ = complete_network(source, Target(unet_3d, 5, segmentations=3), "fresh", 0, channel_map=[0, None])
    assert torch.allclose(state[STEM][:, 1], source.tensors[STEM][:, 0] / 2)
    assert not state[STEM][:, 2:].any()
    with pytest.raises(NnsslError, match=r"names 5 channel\(s\), the target has 2"):
        complete_network(source, Target(unet_3d, 5, segmentations=3), "fresh", 0, channel_map=[0] * 5)


def test_weights_of_a_second_stage_stay_whole(unet_3d: dict) -> None:
    one = weights_of(trained(unet_3d))
    stem = torch.randn(one.tensors[STEM].shape[0], 3, *one.tensors[STEM].shape[2:])
    tensors = {key: stem if value is one.tensors[STEM] else value for key, value in one.tensors.items()}
    tensors = {k: stem if v.shape == one.tensors[STEM].shape else v for k, v in tensors.items()}
    source: Weights = replace(one, tensors=tensors, channels=3, pretraining=Pretraining(channel_names=("MRI",)))
    for images in (Pretraining(), Pretraining(channel_names=("mri",)), Pretraining(channel_names=("CT",))):
        state, _ = complete_network(source, Target(unet_3d, 3, images, segmentations=2), "fresh", 0)
        assert torch.equal(state[STEM], stem)


def test_a_second_stage_with_its_images_in_another_order_keeps_its_classes(unet_3d: dict) -> None:
    one = weights_of(trained(unet_3d))
    stem = torch.randn(one.tensors[STEM].shape[0], 4, *one.tensors[STEM].shape[2:])
    tensors = {k: stem if v.shape == one.tensors[STEM].shape else v for k, v in one.tensors.items()}
    source = replace(one, tensors=tensors, channels=4, pretraining=Pretraining(channel_names=("T1", "T2")))
    target = Target(unet_3d, 4, Pretraining(channel_names=("T2", "T1")), segmentations=2)
    state, _ = complete_network(source, target, "fresh", 0)
    assert torch.equal(state[STEM], stem[:, [1, 0, 2, 3]])


def test_nnunets_count_is_taken_and_its_loader_takes_the_file(
    pretraining: Path, unet_3d: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnssl.transfer import pack_encoder, write_encoder

    folder = pretraining / "preprocessed" / "Dataset901_Target"
    plans = cascade(json.loads((folder / "nnsslPlans.json").read_text()))
    content = json.loads((folder / "dataset.json").read_text())
    manager = PlansManager(copy.deepcopy(plans))
    settings = manager.get_configuration("3d_cascade_fullres")
    channels = determine_num_input_channels(manager, settings, content)
    target = target_of(plans, settings.configuration, content, None)
    assert (target.channels, target.segmentations) == (channels, 2) == (3, 2)
    alone = target_of(plans, manager.get_configuration("3d_fullres").configuration, content, None)
    assert (alone.channels, alone.segmentations) == (1, 0)

    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    packed = pack_encoder(
        build_unet(architecture, 1, 2).encoder,
        None,
        plans=plans,
        configuration_name="3d_fullres",
        configuration=dict(manager.get_configuration("3d_fullres").configuration),
        channels=1,
        provenance={},
        citations=[],
    )
    write_encoder(packed, tmp_path / "encoder.pth")
    path = folder / "cascadePlans.json"
    path.write_text(json.dumps(plans))
    try:
        where = ("-d", "901", "-p", "cascadePlans", "-c", "3d_cascade_fullres")
        init = str(tmp_path / "init.pth")
        assert run_command("export", str(tmp_path / "encoder.pth"), *where, "-o", init) == 0, capsys.readouterr().err
        assert run_command("pretrain", "901", "3d_cascade_fullres", "-p", "cascadePlans", "-m", "spark") == 2
        assert "pretrain 3d_fullres and use it for the cascade" in capsys.readouterr().err
    finally:
        path.unlink()
    assert not list((tmp_path / "results").rglob("fold_all/*.json"))
    network = get_network_from_plans(
        settings.network_arch_class_name,
        settings.network_arch_init_kwargs,
        settings.network_arch_init_kwargs_req_import,
        channels,
        3,
        deep_supervision=True,
    )
    load_pretrained_weights(network, init)
    assert torch.equal(network.state_dict()[STEM][:, :1], packed.network_weights[STEM])
