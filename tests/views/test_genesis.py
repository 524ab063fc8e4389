from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nnssl.views import Geometry, inside_box, random_boxes, random_distortion
from nnssl.views.boxes import box_masks
from nnssl.views.genesis import (
    apply_curves,
    paint,
    painted,
    random_curves,
    random_painting,
    random_windows,
    shuffle_windows,
)

GEOMETRY = Geometry((12, 20, 30), (1.0, 1.0, 1.0))
THICK = Geometry((7, 70, 40), (10.0, 1.5, 1.5))
FLAT = Geometry((20, 30), (1.0, 1.0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(geometry: Geometry, batch: int = 4, channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops with a few very bright voxels; the last one has padding on one side."""
    box = torch.tensor([[[0, n] for n in geometry.patch_size]] * batch)
    box[-1, -1, 0] = 5
    inside = inside_box(box, geometry.patch_size)
    return torch.randn(batch, channels, *geometry.patch_size, generator=generator(1)).exp() * inside, inside


def test_boxes_have_their_edges_and_reach_every_corner() -> None:
    boxes = random_boxes(300, 3, (10, 20), (0.2, 0.5), generator())
    assert boxes.shape == (300, 3, 2, 2)
    edges = boxes[..., 1] - boxes[..., 0]
    assert edges.amin((0, 1)).tolist() == [2, 4]
    assert edges.amax((0, 1)).tolist() == [5, 10]
    assert boxes[..., 0].amin((0, 1)).tolist() == [0, 0]
    assert boxes[..., 1].amax((0, 1)).tolist() == [10, 20]
    assert (random_boxes(50, 3, (1, 20), (0.01, 0.02), generator()).diff(dim=-1) == 1).all(), "at least one voxel"


def test_box_masks() -> None:
    boxes = random_boxes(4, 3, (6, 7, 8), (0.2, 0.6), generator())
    boxes[1, 2] = 0
    for k, mask in enumerate(box_masks(boxes, (6, 7, 8))):
        assert torch.equal(mask, inside_box(boxes[:, k], (6, 7, 8)))
        assert mask[1].any() == (k < 2)


def test_curves_are_monotone_from_corner_to_corner() -> None:
    chosen, curves = random_curves(100, 2, generator())
    assert 0.8 < chosen.float().mean() < 1.0
    slopes = curves.diff(dim=-1)
    rising = (slopes >= -1e-6).all(-1)
    assert (rising | (slopes <= 1e-6).all(-1)).all()
    assert 0.4 < rising.float().mean() < 0.6, "half of the curves invert the contrast"
    ends = torch.stack([curves[..., 0], curves[..., -1]], -1)
    assert torch.allclose(ends.sort(-1).values, torch.tensor([0.0, 1.0]).expand_as(ends), atol=1e-5)
    assert (curves[0, 0] - curves[0, 1]).abs().max() > 0.05, "channels share a curve"


def test_curves_are_bezier_curves() -> None:
    """Read the control points off the generator and solve x(t) = place by bisection."""
    draw = generator(3)
    torch.rand(3, generator=draw)
    control = torch.rand(3, 2, 2, generator=draw).numpy().astype(float)
    backwards = torch.rand(3, 1, 1, generator=draw).flatten() < 0.5
    _, curves = random_curves(3, 1, generator(3))

    def bezier(t: float, a: float, b: float) -> float:
        return 3 * (1 - t) ** 2 * t * a + 3 * (1 - t) * t**2 * b + t**3

    for k, point in itertools.product(range(3), (10, 100, 200)):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if bezier(middle, *control[k, :, 0]) < point / 255 else (low, middle)
        read = 255 - point if backwards[k] else point
        assert curves[k, 0, read].item() == pytest.approx(bezier(low, *control[k, :, 1]), abs=2e-3)


def test_intensities_follow_the_curve_on_each_channels_own_range() -> None:
    x, inside = crops(GEOMETRY)
    chosen, curves = random_curves(4, 2, generator(), p=1.0)
    y = apply_curves(x, inside, chosen, curves)
    assert (y[~inside.expand_as(y)] == 0).all()
    for b, c in itertools.product(range(4), range(2)):
        before, after = x[b, c][inside[b, 0]].double().numpy(), y[b, c][inside[b, 0]].double().numpy()
        low, high = before.min(), before.mean() + 3 * before.std()
        assert before.max() > high + before.std(), "the crops have no outliers to cut off"
        table = curves[b, c].double().numpy()
        expected = np.interp(((before - low) / (high - low)).clip(0, 1), np.linspace(0, 1, len(table)), table)
        assert np.abs(after - (low + expected * (high - low))).max() < 1e-3
        assert after.min() == pytest.approx(low, abs=1e-3)
        assert after.max() == pytest.approx(high, abs=1e-3)


def test_curves_leave_flat_and_unchosen_crops_alone() -> None:
    x, inside = crops(GEOMETRY)
    x[0] = 2.0
    _, curves = random_curves(4, 2, generator())
    y = apply_curves(x, inside, torch.tensor([True, False, True, True]), curves)
    assert torch.equal(y[:2], x[:2])
    assert not torch.equal(y[2], x[2])
    nothing = apply_curves(x, inside & False, torch.ones(4, dtype=torch.bool), curves)
    assert torch.isfinite(nothing).all(), "a crop without image must not break the batch"


@pytest.mark.parametrize("geometry", [GEOMETRY, THICK, FLAT])
def test_windows_fit(geometry: Geometry) -> None:
    windows, offsets, share = random_windows(geometry, 400, generator(), p=0.5)
    size = torch.tensor(geometry.patch_size)
    shuffled = windows.prod(1) > 1
    assert 0.4 < shuffled.float().mean() < 0.6
    assert (offsets < windows).all()
    assert (offsets + windows <= size).all(), "not even one window fits"
    assert (windows <= (size // 10).clamp(min=2)).all()
    assert windows.max() == min(max(int(size.max()) // 10, 2), 6)
    assert 0.5 <= share.min() < share.max() <= 1
    if geometry is THICK:
        assert (windows[:, 0] == 1).all(), "thick slices are mixed"
    assert offsets.amax(0).tolist() == (windows.amax(0) - 1).tolist()


@pytest.mark.parametrize(("geometry", "window"), [(GEOMETRY, [2, 2, 3]), (THICK, [1, 4, 3]), (FLAT, [2, 3])])
def test_shuffling_permutes_inside_windows_only(geometry: Geometry, window: list[int]) -> None:
    x, inside = crops(geometry)
    windows = torch.tensor([window] * 4)
    windows[1] = 1
    offsets = torch.ones_like(windows).minimum(windows - 1)
    y = shuffle_windows(x, inside, windows, offsets, torch.ones(4), generator())
    assert torch.equal(y[1], x[1])
    moved = (x != y).any(1, keepdim=True)
    assert not (moved & ~inside).any()
    for b in (0, 2, 3):
        starts = [range(o, n - w + 1, w) for n, o, w in zip(geometry.patch_size, offsets[b].tolist(), window)]
        covered = torch.zeros(geometry.patch_size, dtype=torch.bool)
        for start in itertools.product(*starts):
            at = tuple(slice(s, s + w) for s, w in zip(start, window))
            covered[at] = inside[(b, 0, *at)].all()
            before, after = x[(b, slice(None), *at)].flatten(1), y[(b, slice(None), *at)].flatten(1)
            assert torch.equal(before.sort(1).values, after.sort(1).values)
            if covered[at].all():
                order = [[int((before[c] == v).nonzero()[0]) for v in after[c]] for c in range(2)]
                assert order[0] == order[1], "channels must stay in register"
        assert not (moved[b, 0] & ~covered).any()
        assert moved[b, 0][covered].float().mean() > 0.6


def test_a_share_of_the_windows_is_shuffled() -> None:
    x, inside = torch.randn(1, 1, 40, 40), torch.ones(1, 1, 40, 40, dtype=torch.bool)
    y = shuffle_windows(x, inside, torch.tensor([[4, 4]]), torch.zeros(1, 2).long(), torch.tensor([0.5]), generator())
    changed = (x != y).view(10, 4, 10, 4).permute(0, 2, 1, 3).flatten(2).any(2)
    assert 0.35 < changed.float().mean() < 0.65


@pytest.mark.parametrize("geometry", [GEOMETRY, THICK, FLAT])
def test_painting_in_and_out(geometry: Geometry) -> None:
    boxes, outside = random_painting(geometry, 600, generator())
    used = boxes.diff(dim=-1).squeeze(-1).prod(-1) > 0
    drawn = used.any(1)
    assert drawn.float().mean().item() == pytest.approx(0.9, abs=0.04)
    assert outside[drawn].float().mean().item() == pytest.approx(0.8, abs=0.05)
    assert not outside[~drawn].any()
    assert used[drawn].sum(1).float().mean() > 4, "nearly always five boxes"
    assert used[drawn][:, 0].all()
    where = painted(boxes, outside, geometry.patch_size, torch.device("cpu"))
    share = where.flatten(1).float().mean(1)
    assert (share[~drawn] == 0).all()
    # the union of boxes is at least as large as one of them and no larger than five together
    inner, outer = share[drawn & ~outside], 1 - share[outside]
    dim, slack = geometry.dim, 3.0  # few voxels: edges are rounded
    assert inner.min() > (1 / 6) ** dim / slack
    assert inner.max() < 5 * (1 / 3) ** dim * slack
    assert outer.min() > (3 / 7) ** dim / slack
    assert outer.max() < 0.9


def test_painted_voxels_are_noise_of_the_images_own_scale() -> None:
    x, inside = crops(Geometry((60, 60), (1.0, 1.0)))
    x[:, 1] = 5 * x[:, 1] - 3 * inside[:, 0]
    where = torch.zeros_like(inside)
    where[..., :40] = True
    y = paint(x, inside, where, generator())
    replaced = (inside & where).expand_as(y)
    assert torch.equal(y[~replaced], x[~replaced])
    assert (y[replaced] != x[replaced]).all()
    for b, c in itertools.product(range(4), range(2)):
        image, noise = x[b, c][inside[b, 0]], y[b, c][replaced[b, c]]
        assert noise.mean().item() == pytest.approx(image.mean().item(), abs=0.2 * image.std().item())
        assert noise.std().item() == pytest.approx(image.std().item(), rel=0.1)


@pytest.mark.parametrize("geometry", [GEOMETRY, THICK, FLAT])
def test_the_whole_distortion(geometry: Geometry) -> None:
    x, inside = crops(geometry)
    y = random_distortion(x, inside, geometry, generator(5))
    torch.manual_seed(9)
    assert torch.equal(y, random_distortion(x, inside, geometry, generator(5)))
    assert not torch.equal(y, random_distortion(x, inside, geometry, generator(6)))
    assert torch.isfinite(y).all()
    assert (y[~inside.expand_as(y)] == 0).all()
    dirty = torch.where(inside, x, 1000.0)
    assert torch.equal(y, random_distortion(dirty, inside, geometry, generator(5))), "padding leaks into the image"
    off = {"p_curve": 0.0, "p_shuffle": 0.0, "p_paint": 0.0}
    assert torch.equal(x, random_distortion(x, inside, geometry, generator(5), **off))
    for name in off:
        assert not torch.equal(x, random_distortion(x, inside, geometry, generator(5), **{**off, name: 1.0})), name
