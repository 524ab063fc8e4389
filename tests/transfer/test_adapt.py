"""Each adaptation computes the same function as before on input for which it must."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from nnssl.errors import NnsslError
from nnssl.networks import build_unet
from nnssl.transfer.adapt import adapt_network, fit_input_channels, fit_kernel, parse_channel_map
from nnssl.transfer.adapt.channels import match_names


def conv(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Convolution without padding, in float64."""
    return (nn.functional.conv3d if weight.ndim == 5 else nn.functional.conv2d)(x.double(), weight.double())


@pytest.mark.parametrize(("have", "wanted"), [(3, 1), (5, 3), (5, 1), (3, 3), (7, 3)])
def test_a_shorter_kernel_answers_the_same_where_nothing_changes_along_the_axis(have: int, wanted: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 2, have, 3, 3)
    x = torch.randn(1, 2, 1, 9, 9).expand(1, 2, 9, 9, 9)
    before, after = conv(x, weight), conv(x, fit_kernel(weight, (wanted, 3, 3)))
    assert torch.allclose(before[:, :, 0], after[:, :, 0])
    assert torch.allclose(fit_kernel(weight, (wanted, 3, 3)).sum(2), weight.sum(2), atol=1e-5), "no weight is lost"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_longer_kernel_computes_exactly_the_same(axis: int) -> None:
    torch.manual_seed(0)
    size = [3, 3, 3]
    size[axis] = 1
    weight = torch.randn(4, 2, *size)
    grown = fit_kernel(weight, (3, 3, 3))
    x = torch.randn(1, 2, 8, 8, 8, dtype=torch.float64)
    pad = tuple(s // 2 for s in size)
    before = nn.functional.conv3d(x, weight.double(), padding=pad)
    assert torch.equal(before, nn.functional.conv3d(x, grown.double(), padding=1))


@pytest.mark.parametrize("depth", [1, 3])
def test_a_2d_kernel_treats_every_slice_as_before(depth: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 2, 3, 3)
    x = torch.randn(1, 2, 6, 8, 8, dtype=torch.float64)
    volume = nn.functional.conv3d(x, fit_kernel(weight, (depth, 3, 3)).double(), padding=(depth // 2, 1, 1))
    for z in range(6):
        assert torch.allclose(volume[:, :, z], nn.functional.conv2d(x[:, :, z], weight.double(), padding=1))


def test_a_3d_kernel_in_2d_answers_as_on_a_volume_of_equal_slices() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 2, 3, 3, 3)
    slice_ = torch.randn(1, 2, 8, 8)
    volume = conv(slice_[:, :, None].expand(1, 2, 5, 8, 8), weight)
    assert torch.allclose(conv(slice_, fit_kernel(weight, (3, 3))), volume[:, :, 0])


@pytest.mark.parametrize(("have", "wanted"), [(1, 4), (3, 1), (3, 2), (2, 2)])
def test_channels_that_show_the_same_image_answer_the_same(have: int, wanted: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, have, 3, 3, 3)
    x = torch.randn(1, 1, 5, 5, 5)
    before = conv(x.expand(1, have, 5, 5, 5), weight)
    assert torch.allclose(before, conv(x.expand(1, wanted, 5, 5, 5), fit_input_channels(weight, wanted)))


def test_a_map_that_changes_the_order_computes_exactly_the_same() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(4, 3, 3, 3), torch.randn(1, 3, 6, 6)
    order = [2, 0, 1]
    assert torch.allclose(conv(x, weight), conv(x[:, order], fit_input_channels(weight, 3, order)))


def test_a_map_may_use_a_channel_twice_and_take_the_mean() -> None:
    weight = torch.tensor([2.0, 4.0]).reshape(1, 2, 1, 1)
    assert fit_input_channels(weight, 3, [0, 0, None]).flatten().tolist() == [1.0, 1.0, 2.0]


@pytest.mark.parametrize(("mapping", "said"), [([0], "names 1 channel"), ([0, 5], "channel 5, the file has 2")])
def test_a_wrong_map_is_one_clear_line(mapping: list, said: str) -> None:
    with pytest.raises(NnsslError, match=said):
        fit_input_channels(torch.zeros(1, 2, 1, 1), 2, mapping)


def test_maps_are_read_and_names_matched() -> None:
    assert parse_channel_map("0, 0,mean") == [0, 0, None]
    with pytest.raises(NnsslError, match="0,mean"):
        parse_channel_map("0;1")
    assert match_names(["T1", "FLAIR"], ["flair", "t1"]) == [1, 0]
    assert match_names(["T1"], ["T1", "T2"]) is None
    assert match_names(["MRI", "MRI"], ["MRI"]) is None


# -------------------------------------------------------------------- whole networks


def plain(architecture: dict) -> dict:
    """The same topology without residual blocks."""
    changed = copy.deepcopy(architecture)
    changed["network_class_name"] = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    changed["arch_kwargs"]["n_conv_per_stage"] = changed["arch_kwargs"].pop("n_blocks_per_stage")
    return changed


def pair(source: dict, target: dict, channels: tuple[int, int] = (1, 1)) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    first, second = (build_unet(a, c, 2) for a, c in zip((source, target), channels))
    for module in first.parameters():
        nn.init.normal_(module, std=0.2)
    return first, second


def carried(first: nn.Module, second: nn.Module, decoder: bool = True) -> tuple[nn.Module, object]:
    """Load the adapted weights of one network into the other."""
    state, report = adapt_network(
        first.state_dict(),
        {k: v for k, v in second.state_dict().items() if "seg_layers" not in k},
        source_stages=len(first.encoder.stages),
        target_stages=len(second.encoder.stages),
        decoder=decoder,
    )
    missing, unexpected = second.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("seg_layers" in k for k in missing)
    return second, report


@pytest.mark.parametrize("residual", [True, False])
def test_the_same_network_computes_the_same(unet_3d: dict, residual: bool) -> None:
    architecture = unet_3d if residual else plain(unet_3d)
    first, second = pair(architecture, architecture)
    second, report = carried(first, second)
    x = torch.randn(1, 1, 8, 16, 16)
    for a, b in zip(first.encoder(x), second.encoder(x)):
        assert torch.equal(a, b)
    assert report.encoder_coverage == 1
    assert not report.adapted
    assert not any(part.startswith(("encoder", "stem", "decoder")) for part in report.new)
    values = sum(p.numel() for n, p in second.named_parameters() if "seg_layers" not in n)
    assert sum(report.loaded.values()) == values, "every value counted once"
    conv_block = second.encoder.stages[0].blocks[0].conv1 if residual else second.encoder.stages[0][0].convs[0]
    assert conv_block.conv is conv_block.all_modules[0], "the two names stay one object"


def test_grown_kernels_leave_the_whole_encoder_as_it_was(unet_3d: dict) -> None:
    target = copy.deepcopy(unet_3d)
    target["arch_kwargs"]["kernel_sizes"] = [[3, 3, 3]] * 3
    first, second = pair(unet_3d, target)
    second, report = carried(first, second)
    x = torch.randn(1, 1, 8, 16, 16)
    for a, b in zip(first.encoder(x), second.encoder(x)):
        assert torch.allclose(a, b, atol=1e-4)
    assert report.adapted["encoder stage 0"] > 0
    assert "kernel 1x3x3 -> 3x3x3" in report.how["encoder stage 0"]
    assert report.encoder_coverage == 1


def test_more_channels_of_the_same_image_give_the_same_features(unet_3d: dict) -> None:
    first, second = pair(unet_3d, unet_3d, (1, 4))
    second, report = carried(first, second)
    x = torch.randn(1, 1, 8, 16, 16)
    for a, b in zip(first.encoder(x), second.encoder(x.expand(-1, 4, -1, -1, -1))):
        assert torch.allclose(a, b, atol=1e-4)
    assert "1 -> 4 input channels" in report.how["stem"]


def test_a_deeper_target_gets_what_there_is_and_says_what_is_new(unet_3d: dict) -> None:
    target = copy.deepcopy(unet_3d)
    kwargs = target["arch_kwargs"]
    kwargs |= {"n_stages": 4, "features_per_stage": [8, 16, 24, 24], "n_conv_per_stage_decoder": [1, 1, 1]}
    kwargs |= {"kernel_sizes": [*kwargs["kernel_sizes"], [3, 3, 3]], "strides": [*kwargs["strides"], [2, 2, 2]]}
    kwargs["n_blocks_per_stage"] = [1, 1, 1, 1]
    first, second = pair(unet_3d, target)
    second, report = carried(first, second)
    x = torch.randn(1, 1, 16, 32, 32)
    for a, b in zip(first.encoder(x), second.encoder(x)):
        assert torch.equal(a, b)
    assert 0 < report.encoder_coverage < 1
    assert set(report.new) >= {"encoder stage 3"}
    # the decoder's stages are matched by resolution, not by their numbers
    assert torch.equal(first.decoder.stages[-1].convs[0].conv.weight, second.decoder.stages[-1].convs[0].conv.weight)
    _, report = carried(second, pair(unet_3d, unet_3d)[1])
    assert report.encoder_coverage == 1
    assert report.unused["encoder stage 3"] > 0


def test_further_residual_blocks_begin_as_nearly_the_identity(unet_3d: dict) -> None:
    target = copy.deepcopy(unet_3d)
    target["arch_kwargs"]["n_blocks_per_stage"] = [1, 2, 1]
    first, second = pair(unet_3d, target)
    second, report = carried(first, second)
    assert torch.count_nonzero(second.encoder.stages[1].blocks[1].conv2.norm.weight) == 0
    x = torch.randn(1, 1, 8, 16, 16)
    a, b = first.encoder(x)[1], second.encoder(x)[1]
    assert torch.allclose(a.relu(), b.relu(), atol=1e-5), "what the activation lets pass is unchanged"
    assert report.encoder_coverage < 1


def test_another_width_is_refused_with_what_to_do(unet_3d: dict) -> None:
    target = copy.deepcopy(unet_3d)
    target["arch_kwargs"]["features_per_stage"] = [8, 16, 32]
    with pytest.raises(NnsslError, match=r"encoder stage 2.*--like"):
        carried(*pair(unet_3d, target))


def test_2d_weights_in_a_3d_network_see_slices_as_before(unet_3d: dict) -> None:
    """Kernels and strides of one along the slices: the 3D network is then the 2D one, slice by slice.

    Instance norm would average over slices, so a volume of one slice is compared.
    """
    flat = json.loads(json.dumps(unet_3d).replace("Conv3d", "Conv2d").replace("InstanceNorm3d", "InstanceNorm2d"))
    flat["arch_kwargs"] |= {"kernel_sizes": [[3, 3]] * 3, "strides": [[1, 1], [2, 2], [2, 2]]}
    deep = copy.deepcopy(unet_3d)
    deep["arch_kwargs"] |= {"kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [1, 2, 2], [1, 2, 2]]}
    first, second = pair(flat, deep)
    second, report = carried(first, second, decoder=False)
    x = torch.randn(1, 1, 16, 16)
    for a, b in zip(first.encoder(x), second.encoder(x[:, :, None])):
        assert torch.allclose(a, b[:, :, 0], atol=1e-4)
    assert "kernel 3x3 -> 3x3x3" in report.how["encoder stage 1"]
    back, _ = carried(second, pair(flat, flat)[1], decoder=False)
    for a, b in zip(first.encoder(x), back.encoder(x)):
        assert torch.allclose(a, b, atol=1e-4), "2D -> 3D -> 2D is where it came from"


def test_a_bias_that_the_file_lacks_is_zero(unet_3d: dict) -> None:
    source = copy.deepcopy(unet_3d)
    source["arch_kwargs"]["conv_bias"] = False
    first, second = pair(source, unet_3d)
    second, report = carried(first, second)
    x = torch.randn(1, 1, 8, 16, 16)
    for a, b in zip(first.encoder(x), second.encoder(x)):
        assert torch.allclose(a, b, atol=1e-5)
    assert report.encoder_coverage == 1
