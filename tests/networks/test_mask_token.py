from __future__ import annotations

import torch

from nnssl.networks.mask_token import MaskToken


def test_hidden_blocks_show_the_token_and_visible_ones_the_image() -> None:
    token = MaskToken(2, (2, 3))
    image, visible = (
        torch.randn(2, 2, 4, 6),
        torch.tensor([[True, False], [False, True]])[None, None].repeat(2, 1, 1, 1),
    )
    visible[1, 0, 0, 0] = False
    shown = token(image, visible)
    picture = token.values.detach().view(2, 2, 3)
    for b in range(2):
        for i in range(2):
            for j in range(2):
                part = (b, slice(None), slice(2 * i, 2 * i + 2), slice(3 * j, 3 * j + 3))
                expected = image[part] if visible[b, 0, i, j] else picture
                assert torch.equal(shown[part], expected)


def test_nothing_of_what_is_hidden_gets_through() -> None:
    token = MaskToken(1, (2, 2, 2))
    visible = torch.zeros(1, 1, 2, 2, 2, dtype=torch.bool)
    visible[..., 0] = True
    image = torch.randn(1, 1, 4, 4, 4)
    spoilt = image.clone()
    spoilt[..., 2:] = torch.nan
    assert torch.equal(token(image, visible), token(spoilt, visible))


def test_the_token_learns_and_has_no_weight_decay() -> None:
    token = MaskToken(1, (2, 2))
    visible = torch.tensor([[[[True, False]]]])
    token(torch.ones(1, 1, 2, 4), visible).sum().backward()
    assert token.values.grad is not None
    assert torch.equal(token.values.grad, torch.ones(4))
    assert token.values.ndim == 1, "the trainer spares parameters of one dimension"
