from __future__ import annotations

import itertools

import pytest
import torch

from nnssl.networks import VoxelHead, build_unet
from tests.methods.cases import SHAPES, Shape, architecture


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_every_position_fills_the_voxels_below_it(shape: Shape) -> None:
    head = VoxelHead(build_unet(architecture(shape), shape.channels, 1).encoder, shape.channels)
    grid = [n // s for n, s in zip(shape.size, head.stride)]
    features = torch.randn(2, 24, *grid)
    out = head(features)
    values = head.conv(features).view(2, shape.channels, *head.stride, *grid)
    assert out.shape == (2, shape.channels, *shape.size)
    for voxel in itertools.product(*(range(n) for n in shape.size)):
        position = [i // s for i, s in zip(voxel, head.stride)]
        offset = [i % s for i, s in zip(voxel, head.stride)]
        assert torch.equal(out[(..., *voxel)], values[(..., *offset, *position)])


def test_the_first_answer_is_about_zero() -> None:
    torch.manual_seed(0)
    head = VoxelHead(build_unet(architecture(SHAPES["3d"]), 1, 1).encoder, 1)
    assert head(torch.randn(2, 24, 4, 4, 4)).std() < 0.2
