from __future__ import annotations

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.networks import ReconstructionUNet, build_unet, decoder_features, total_stride


def test_total_stride_is_per_axis(unet_3d: dict) -> None:
    assert total_stride(build_unet(unet_3d, 1, 2).encoder) == (2, 4, 4)


def test_decoder_features_are_what_the_stock_decoder_computes(unet_3d: dict) -> None:
    unet = build_unet(unet_3d, 2, 3)
    x = torch.randn(2, 2, 4, 16, 16)
    expected = unet(x)
    features = decoder_features(unet.decoder, unet.encoder(x))
    assert torch.equal(unet.decoder.seg_layers[-1](features), expected)


def test_surgery_keeps_shared_tensors_shared(unet_3d: dict) -> None:
    """conv and all_modules.0 are one tensor, and the decoder's encoder is the encoder; before and after."""
    unet = build_unet(unet_3d, 1, 1)
    encoder_before = sum(p.numel() for p in unet.encoder.parameters())
    heads = sum(p.numel() for p in unet.decoder.seg_layers.parameters())
    before = sum(p.numel() for p in unet.parameters())
    network = ReconstructionUNet(unet, 1)
    assert network.unet.decoder.encoder is network.unet.encoder
    assert sum(p.numel() for p in network.unet.encoder.parameters()) == encoder_before
    assert sum(p.numel() for p in network.unet.parameters()) == before - heads
    state = network.state_dict()
    twins = [k for k in state if ".all_modules.0." in k]
    assert twins
    for key in twins:
        assert state[key].data_ptr() == state[key.replace(".all_modules.0.", ".conv.")].data_ptr(), key


def test_one_step_trains_every_name_of_the_stem(unet_3d: dict) -> None:
    network = ReconstructionUNet(build_unet(unet_3d, 1, 1), 1)
    before = {k: v.clone() for k, v in network.state_dict().items() if ".stem." in k and k.endswith("weight")}
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(torch.randn(1, 1, 4, 16, 16)).square().mean().backward()
    optimizer.step()
    after = network.state_dict()
    assert len(before) >= 4  # conv and all_modules.0, below encoder and decoder.encoder
    for key, value in before.items():
        assert not torch.equal(after[key], value), f"{key} was not trained"


def test_unknown_network_class_is_one_clear_line(unet_3d: dict) -> None:
    unet_3d["network_class_name"] = "no.such.Network"
    with pytest.raises(NnsslError, match="cannot be imported"):
        build_unet(unet_3d, 1, 1)
