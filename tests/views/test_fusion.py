from __future__ import annotations

import pytest
import torch

from nnssl.views import Geometry, fuse, fusion_partner, random_coefficients

VOLUME = Geometry((24, 24, 24), (1.0, 1.0, 1.0))
THICK = Geometry((7, 40, 40), (10.0, 1.5, 1.5))
FLAT = Geometry((64, 64), (1.0, 1.0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("geometry", [VOLUME, THICK, FLAT])
def test_every_class_is_there_and_boxes_cover_most_of_a_crop(geometry: Geometry) -> None:
    classes = random_coefficients(geometry, 80, generator(), levels=4)
    assert classes.shape == (80, 1, *geometry.patch_size)
    assert classes.unique().tolist() == [0, 1, 2, 3, 4]
    counts = torch.bincount(classes.flatten(), minlength=5) / classes.numel()
    assert 0.5 < 1 - counts[0] < 0.85, "25 boxes of about 5 % of the crop"
    assert counts[1:].max() / counts[1:].min() < 1.6, "the coefficients are drawn alike"
    assert torch.equal(classes, random_coefficients(geometry, 80, generator(), levels=4))


def test_number_of_boxes() -> None:
    one = random_coefficients(FLAT, 40, generator(), levels=1, count=(1, 1))[:, 0]
    for mask in one.bool():
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert mask.sum() == len(rows) * len(columns) > 0, "not one box"
    few = random_coefficients(FLAT, 200, generator(), levels=20, count=(1, 3)).flatten(1)
    seen = [len(row.unique()) - 1 for row in few]
    assert min(seen) == 1
    assert max(seen) == 3


def test_fusion_is_a_weighted_mean() -> None:
    foreground, background = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    classes = torch.randint(0, 5, (2, 1, 4, 5), generator=generator())
    fused = fuse(foreground, background, classes, 4)
    for k, share in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        where = (classes == k).expand_as(fused)
        assert where.any()
        assert torch.allclose(fused[where], (share * foreground + (1 - share) * background)[where], atol=1e-6)
    assert torch.equal(fused[(classes == 0).expand_as(fused)], background[(classes == 0).expand_as(fused)])
    assert torch.equal(fused[(classes == 4).expand_as(fused)], foreground[(classes == 4).expand_as(fused)])


def test_partner_is_another_crop_or_the_own_mirror_image() -> None:
    x = torch.randn(3, 2, 4, 5, 6, generator=generator())
    inside = torch.rand(3, 1, 4, 5, 6, generator=generator(1)) < 0.7
    partner, partner_inside = fusion_partner(x, inside)
    for b in range(3):
        assert torch.equal(partner[b], x[b - 1])
        assert torch.equal(partner_inside[b], inside[b - 1])
    alone, alone_inside = fusion_partner(x[:1], inside[:1])
    assert torch.equal(alone, x[:1].flip((2, 3, 4)))
    assert torch.equal(alone_inside, inside[:1].flip((2, 3, 4)))
    twice = torch.stack([x[0], x[0], x[1]])
    partner, _ = fusion_partner(twice, inside)
    assert torch.equal(partner[0], x[1])
    assert torch.equal(partner[1], x[0].flip((1, 2, 3))), "the same crop again is no partner"
    assert torch.equal(partner[2], x[0])
