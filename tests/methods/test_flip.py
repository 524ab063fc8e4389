from __future__ import annotations

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.methods.flip import Flip
from tests.methods.cases import SHAPES, make_method


def make(shape: str, **options: object) -> Flip:
    method = make_method("flip", SHAPES[shape], **options)
    assert isinstance(method, Flip)
    return method


def test_classes_are_the_subsets_of_the_axes() -> None:
    assert make("2d").classes == 4
    assert make("3d").axes == [1, 2]
    assert make("3d", axes=0).classes == make("3d", axes=[0]).classes == 2
    assert make("3d", axes=[0, 1, 2]).classes == 8


def test_bits_of_the_class_are_the_axes() -> None:
    x = torch.randn(1, 1, 6, 16, 24)
    method = make("anisotropic", axes=[2, 0])
    assert torch.equal(method.change(x, [0]), x)
    assert torch.equal(method.change(x, [1]), x.flip(4))
    assert torch.equal(method.change(x, [2]), x.flip(2))
    assert torch.equal(method.change(x, [3]), x.flip(2, 4))
    assert torch.equal(method.change(method.change(x, [3]), [3], back=True), x)


@pytest.mark.parametrize("axes", [[], [2], [-1], [0, 0]])
def test_axes_that_are_not_there_are_refused(axes: list[int]) -> None:
    with pytest.raises(NnsslError, match="different axes of 0 to 1"):
        make("2d", axes=axes)
