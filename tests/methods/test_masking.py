from __future__ import annotations

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.methods.masking import before_and_after, block_edges


@pytest.mark.parametrize(
    ("chosen", "expected"), [(None, (1, 4, 4)), (8, (6, 8, 8)), ([2, 8, 4], (2, 8, 4)), (2, (2, 2, 2))]
)
def test_the_block_is_the_stride_or_what_was_chosen(chosen: object, expected: tuple[int, ...]) -> None:
    assert block_edges(chosen, (6, 16, 24), (1, 4, 4)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("chosen", [5, [2, 8], [1, 0, 4], [1, 4, 48]])
def test_a_block_that_does_not_divide_the_patch_is_refused(chosen: object) -> None:
    with pytest.raises(NnsslError, match="must divide the patch size"):
        block_edges(chosen, (6, 16, 24), (1, 4, 4))  # type: ignore[arg-type]


def test_a_block_finer_than_the_stride_is_refused_where_the_stride_matters() -> None:
    with pytest.raises(NnsslError, match=r"multiple of the encoder's total stride \[1, 4, 4\]"):
        block_edges([1, 2, 4], (6, 16, 24), (1, 4, 4), whole_strides=True)
    assert block_edges([1, 8, 12], (6, 16, 24), (1, 4, 4), whole_strides=True) == (1, 8, 12)


def test_one_block_leaves_no_choice() -> None:
    with pytest.raises(NnsslError, match="covers the whole patch"):
        block_edges([6, 16, 24], (6, 16, 24), (1, 4, 4))
    assert block_edges([6, 16, 24], (6, 16, 24), (1, 4, 4), choice=False) == (6, 16, 24)


def test_pictures_hide_what_is_hidden_and_fill_it_in() -> None:
    image, answer = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    visible = torch.tensor([[True, False], [False, True]])[None, None]
    pictures = before_and_after(image, visible, answer)
    assert torch.equal(torch.isnan(pictures["shown to the network"]), ~visible.expand_as(image))
    assert torch.equal(pictures["hidden blocks filled in"], (~visible).float().expand_as(image))
