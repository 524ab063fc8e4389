from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nnssl.networks import DenseMasked, Densify, build_unet, encode_visible
from nnssl.views import expand_blocks
from tests.methods.cases import SHAPES, Shape, architecture


def densify(shape: Shape, widths: list[int] | None = None) -> tuple[Densify, Any]:
    torch.manual_seed(0)
    encoder = build_unet(architecture(shape), shape.channels, 1).encoder
    return Densify(encoder, widths or encoder.output_channels), encoder


def features(encoder: Any, size: tuple[int, ...], visible: torch.Tensor) -> list[torch.Tensor]:
    channels = next(encoder.parameters()).shape[1]
    x = torch.randn(visible.shape[0], channels, *size, generator=torch.Generator().manual_seed(0))
    return encode_visible(encoder, x, visible, DenseMasked)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_kernels_are_the_plans_and_one_at_the_deepest_scale(shape: Shape) -> None:
    module, _ = densify(shape)
    kernels = [tuple(p.kernel_size) for p in module.projections]
    assert kernels == [*shape.kernels[:-1], (1,) * len(shape.size)]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_sizes_stay_and_widths_change(shape: Shape) -> None:
    module, encoder = densify(shape, [5, 6, 7])
    stride = [4, 4] if len(shape.size) == 2 else [1 if shape.strides[1][0] == 1 else 4, 4, 4]
    visible = torch.rand(2, 1, *(n // s for n, s in zip(shape.size, stride))) < 0.5
    visible[:, :, 0] = True
    sparse = features(encoder, shape.size, visible)
    dense = module(sparse, visible)
    assert [tuple(d.shape) for d in dense] == [(2, w, *s.shape[2:]) for w, s in zip([5, 6, 7], sparse)]


def test_tokens_stand_at_hidden_positions_and_normed_features_at_the_others() -> None:
    shape = SHAPES["2d"]
    module, encoder = densify(shape)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    module.projections = nn.ModuleList(nn.Identity() for _ in module.projections)
    visible = torch.rand(2, 1, 6, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    sparse = features(encoder, shape.size, visible)
    for x, out, norm, token in zip(sparse, module(sparse, visible), module.norms, module.tokens):
        shown = expand_blocks(visible, [n // g for n, g in zip(x.shape[2:], visible.shape[2:])])[:, 0]
        assert torch.equal(out.movedim(1, -1)[~shown], token.expand(int((~shown).sum()), -1))
        for b in range(2):
            values = x[b].movedim(0, -1)[shown[b]]  # (visible positions, C)
            normal = (values - values.mean(0)) / (values.var(0, unbiased=False) + norm.eps).sqrt()
            expected = normal * norm.weight + norm.bias
            torch.testing.assert_close(out[b].movedim(0, -1)[shown[b]], expected, atol=1e-4, rtol=1e-4)


def test_tokens_are_not_decayed() -> None:
    """Optimisers take every parameter with more than one dimension for a weight."""
    module, _ = densify(SHAPES["3d"])
    assert all(token.ndim == 1 for token in module.tokens)


def test_without_a_norm_in_the_plans_there_is_none() -> None:
    shape = SHAPES["2d"]
    encoder: Any = build_unet(architecture(shape), 1, 1).encoder
    encoder.norm_op = encoder.norm_op_kwargs = None
    module = Densify(encoder, encoder.output_channels)
    assert all(isinstance(n, nn.Identity) for n in module.norms)
    visible = torch.tensor([True, False]).view(1, 1, 2, 1)
    module(features(encoder, shape.size, visible), visible)
