from __future__ import annotations

import pytest
import torch

from nnssl.networks import LightDecoder, build_unet
from tests.methods.cases import SHAPES, Shape, architecture


def make(shape: Shape, width: int | None = None) -> tuple[LightDecoder, list[tuple[int, ...]]]:
    """A decoder and the spatial size of each scale."""
    torch.manual_seed(0)
    encoder = build_unet(architecture(shape), shape.channels, 1).encoder
    sizes, size = [], shape.size
    for stride in shape.strides:
        size = tuple(n // s for n, s in zip(size, stride))
        sizes.append(size)
    return LightDecoder(encoder, width), sizes


def skips(decoder: LightDecoder, sizes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, w, *s, generator=draw).requires_grad_() for w, s in zip(decoder.widths, sizes)]


def test_width_halves_down_to_a_floor() -> None:
    assert make(SHAPES["3d"])[0].widths == [8, 8, 12]
    assert make(SHAPES["3d"], 64)[0].widths == [16, 32, 64]
    assert make(SHAPES["3d"], 8)[0].widths == [8, 8, 8]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_full_resolution_comes_out_and_every_scale_goes_in(shape: Shape) -> None:
    decoder, sizes = make(shape)
    given = skips(decoder, sizes)
    out = decoder(given)
    assert out.shape == (2, decoder.widths[0], *shape.size)
    out.square().sum().backward()
    assert all(s.grad is not None and s.grad.abs().sum() > 0 for s in given)
    assert all(p.grad is not None for p in decoder.parameters())


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_it_may_end_at_a_coarser_scale(shape: Shape, stop: int) -> None:
    whole, sizes = make(shape)
    encoder = build_unet(architecture(shape), shape.channels, 1).encoder
    decoder = LightDecoder(encoder, stop=stop)
    assert decoder.widths == whole.widths[stop:], "widths belong to scales, wherever it ends"
    given = skips(decoder, sizes[stop:])
    assert decoder(given).shape == (2, decoder.widths[0], *sizes[stop])


def test_it_is_lighter_than_nnunets() -> None:
    shape = SHAPES["3d"]
    decoder, _ = make(shape)
    unet = build_unet(architecture(shape), 1, 1)
    inside = {id(p) for p in unet.encoder.parameters()}
    full = sum(p.numel() for p in unet.decoder.parameters() if id(p) not in inside)
    assert sum(p.numel() for p in decoder.parameters()) < full
