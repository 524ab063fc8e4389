from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.methods.rotation import Rotation
from tests.methods.cases import SHAPES, Shape, make_crops, make_method, seeded


def make(shape: Shape, **options: object) -> Rotation:
    method = make_method("rotation", shape, **options)
    assert isinstance(method, Rotation)
    return method


def test_classes_are_the_turns_of_the_planes() -> None:
    assert make(SHAPES["2d"]).turns == [((0, 1), k) for k in range(4)]
    assert make(SHAPES["3d"]).turns == [((1, 2), k) for k in range(4)]
    assert make(SHAPES["3d"], planes="all").classes == 10
    assert make(SHAPES["anisotropic"], planes="all").classes == 4, "thick slices are never turned out of their plane"


def test_without_equal_spacing_in_the_last_plane_the_first_that_has_it_is_taken() -> None:
    assert make(replace(SHAPES["3d"], spacing=(1.0, 1.0, 5.0))).planes == [(0, 1)]


def test_without_any_plane_of_equal_spacing_it_says_so() -> None:
    for shape in (replace(SHAPES["2d"], spacing=(1.0, 3.0)), replace(SHAPES["3d"], spacing=(1.0, 2.0, 4.0))):
        with pytest.raises(NnsslError, match="equal spacing"):
            make(shape)


def test_advice_where_a_turn_stretches() -> None:
    assert make(SHAPES["3d"], planes="all").advice(10, 2) == []
    uneven = replace(SHAPES["3d"], spacing=(1.3, 1.0, 1.0))
    assert make(uneven).advice(10, 2) == []
    assert "1 and 1.3 mm" in make(uneven, planes="all").advice(10, 2)[0]


def test_crops_are_square_where_they_turn() -> None:
    assert make(SHAPES["2d"]).read_size() == (16, 16)
    assert make(SHAPES["anisotropic"]).read_size() == (6, 16, 16)
    tall = replace(SHAPES["3d"], size=(8, 16, 24))
    assert make(tall).read_size() == (8, 16, 16)
    assert make(tall, planes="all").read_size() == (8, 8, 8)


def test_the_square_fits_the_strides_of_both_axes() -> None:
    strides = ((1, 1, 1), (2, 2, 2), (2, 4, 2))
    shape = replace(SHAPES["3d"], size=(16, 24, 20), strides=strides)
    method = make(shape)
    assert method.read_size() == (16, 16, 16), "20 is no multiple of 8"
    method(method.views(make_crops(method), seeded()))
    with pytest.raises(NnsslError, match="too short"):
        make(replace(shape, size=(16, 24, 4)))


def test_a_turn_shows_the_same_voxels() -> None:
    """Nothing is interpolated: every class has the very same grey values."""
    method = make(SHAPES["3d"], planes="all").eval()
    crops = make_crops(method, batch=10)
    views = method.views(crops, seeded())
    upright = crops.images * method.unchanged(views["visible"])
    assert torch.equal(views["image"].flatten(1).sort(1).values, upright.flatten(1).sort(1).values)
