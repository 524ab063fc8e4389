"""A small synthetic data set for the demonstration: images of a "torso" with two organs that have lookalikes.

Every case is a pure function of (seed, role, number), so two machines make the same files and the unlabelled pool can
never hold a validation case. What makes the task need more than a handful of labels, and what an unlabelled pool shows:

* The gland and a mass have the same mean intensity and size; only the gland is layered.
* Kidneys and cysts have the same outline and rim intensity; only a kidney has a core.
* Vessels as bright or dark as the organs run through the body.
* Position, size, orientation, contrast, bias field, noise, grid and spacing change from case to case.

Images are small (about 15 x 27 x 27 voxels of 4.4 x 2.6 x 2.6 mm) so that two CPU cores can pretrain for more than a
thousand steps in minutes. Arrays are (z, y, x), lengths are millimetres.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from nnssl.files import write_json

LABELS: dict[str, int] = {"background": 0, "gland": 1, "kidney": 2}
ROLES: tuple[str, ...] = ("pool", "train", "val")
FILE_ENDING = ".nii.gz"
# A soft edge of about half a voxel imitates the partial volume effect.
EDGE_MM = 0.9


@dataclass(frozen=True)
class SyntheticCase:
    """One case: ``image`` float32 (z, y, x), ``label`` uint8 (z, y, x), ``spacing`` mm per voxel along (z, y, x)."""

    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float]


class _Canvas:
    """The image while it is being painted: structures are drawn one over the other with soft edges.

    ``grid_mm`` (3, z, y, x) holds the position of every voxel relative to the centre of the image, smoothly warped, so
    that every structure drawn from simple formulas gets an irregular outline.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        shape = tuple(int(n) for n in np.array([15, 27, 27]) + rng.integers(-1, 2, size=3))
        z, y, x = (float(s) for s in np.array([4.4, 2.6, 2.6]) * rng.uniform(0.95, 1.05, size=3))
        self.spacing = (z, y, x)
        axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, self.spacing)]
        self.grid_mm = np.stack(np.meshgrid(*axes, indexing="ij"))
        self.grid_mm += np.stack([self.smooth_field(shape, 10.0) * 2.2 for _ in range(3)])
        self.image = np.zeros(shape)
        self.label = np.zeros(shape, dtype=np.uint8)

    def smooth_field(self, shape: Sequence[int], width_mm: float) -> np.ndarray:
        """Smooth random field (z, y, x) with mean 0 and standard deviation 1; ``width_mm`` is its Gaussian width."""
        field = gaussian_filter(self.rng.standard_normal(shape), [width_mm / s for s in self.spacing], mode="wrap")
        return (field - field.mean()) / field.std()

    def paint(self, distance_mm: np.ndarray, value: float | np.ndarray, label: int = 0) -> None:
        """Draw a structure: ``distance_mm`` (z, y, x) is negative inside; it replaces what lay there before."""
        cover = 1.0 / (1.0 + np.exp(np.clip(distance_mm / (EDGE_MM / 2), -30, 30)))
        self.image = self.image * (1.0 - cover) + cover * value
        self.label[cover > 0.5] = label


def make_case(seed: int, role: str, number: int) -> SyntheticCase:
    """Case ``number`` of ``role`` ("pool", "train" or "val"): the same distribution, a different random stream."""
    rng = np.random.default_rng([seed, ROLES.index(role), number])
    canvas = _Canvas(rng)
    tissue = rng.uniform(0.45, 0.55)
    _paint_body(canvas, tissue)
    _paint_vessels(canvas, tissue)
    _paint_gland_and_mass(canvas, tissue + rng.uniform(-0.08, 0.08))
    _paint_kidneys_and_cysts(canvas, tissue)
    return SyntheticCase(_acquire(canvas), canvas.label, canvas.spacing)


def _paint_body(canvas: _Canvas, tissue: float) -> None:
    """Tissue and a bright spine with a dark canal; the body is a cylinder along z."""
    rng, (_, y, x) = canvas.rng, canvas.grid_mm
    half_y, half_x = rng.uniform(36, 40), rng.uniform(36, 40)
    body = (np.sqrt((y / half_y) ** 2 + (x / half_x) ** 2) - 1.0) * min(half_y, half_x)
    canvas.paint(body, tissue)
    spine = np.sqrt((y - half_y + rng.uniform(12.0, 14.0)) ** 2 + x**2)
    canvas.paint(spine - rng.uniform(5.0, 6.5), rng.uniform(0.7, 0.8))
    canvas.paint(spine - 2.5, rng.uniform(0.2, 0.3))


def _paint_vessels(canvas: _Canvas, tissue: float) -> None:
    """Two or three gently curved tubes through the whole body."""
    rng = canvas.rng
    for _ in range(rng.integers(2, 4)):
        start = np.array([-40.0, *rng.uniform(-22, 22, size=2)])
        end = np.array([40.0, *(start[1:] + rng.uniform(-20, 20, size=2))])
        tube = _tube(canvas, start, (start + end) / 2 + rng.uniform(-10, 10, size=3), end, rng.uniform(2.5, 3.5))
        canvas.paint(tube, tissue + rng.choice([-0.2, 0.2]))


def _paint_gland_and_mass(canvas: _Canvas, organ: float) -> None:
    """The layered gland (label 1) on one side, on the other a mass that differs from it only in texture."""
    rng = canvas.rng
    side = rng.choice([-1.0, 1.0])
    for is_gland, sign in ((False, -side), (True, side)):
        centre = np.array([rng.uniform(-14, 14), rng.uniform(-16, -6), sign * rng.uniform(13, 17)])
        outline = _ellipsoid(canvas, centre, rng.uniform([15, 13, 13], [20, 16, 15]))
        texture = _layers(canvas, rng.uniform(9.0, 12.0)) if is_gland else 0.7 * canvas.smooth_field(outline.shape, 2.5)
        canvas.paint(outline, organ + 0.2 * texture, LABELS["gland"] if is_gland else 0)


def _paint_kidneys_and_cysts(canvas: _Canvas, tissue: float) -> None:
    """One or two kidneys (label 2: rim and core differ) and one or two cysts (rim intensity throughout)."""
    rng = canvas.rng
    places = [np.array([z, 13.0, x]) for z in (-15.0, 15.0) for x in (-18.0, 18.0)]
    rng.shuffle(places)
    n_kidneys = rng.integers(1, 3)
    contrast = rng.choice([-0.2, 0.2])
    for index, place in enumerate(places[: n_kidneys + rng.integers(1, 3)]):
        outline = _ellipsoid(canvas, place + rng.uniform(-3, 3, size=3), rng.uniform([11, 9, 9], [15, 12, 11]))
        label = LABELS["kidney"] if index < n_kidneys else 0
        canvas.paint(outline, tissue + contrast, label)
        if label:
            canvas.paint(outline + rng.uniform(3.5, 5.0), tissue - contrast, label)


def _ellipsoid(canvas: _Canvas, centre_mm: np.ndarray, half_axes_mm: np.ndarray) -> np.ndarray:
    """Distance in mm (approximate, negative inside) (z, y, x) to a randomly oriented ellipsoid."""
    rotation, _ = np.linalg.qr(canvas.rng.standard_normal((3, 3)))
    # Half way to a random orientation: organs are tilted, not tumbling.
    rotation, _ = np.linalg.qr(np.eye(3) + 0.5 * rotation)
    local = np.tensordot(rotation, canvas.grid_mm - centre_mm[:, None, None, None], axes=1)
    radius = np.sqrt(((local / half_axes_mm[:, None, None, None]) ** 2).sum(axis=0))
    return (radius - 1.0) * float(np.min(half_axes_mm))


def _tube(canvas: _Canvas, start: np.ndarray, bend: np.ndarray, end: np.ndarray, radius_mm: float) -> np.ndarray:
    """Distance in mm (z, y, x), negative inside, to a tube along the quadratic curve start - bend - end."""
    t = np.linspace(0.0, 1.0, 24)[:, None]
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    squared = [((canvas.grid_mm - p[:, None, None, None]) ** 2).sum(axis=0) for p in points]
    return np.sqrt(np.min(squared, axis=0)) - radius_mm


def _layers(canvas: _Canvas, period_mm: float) -> np.ndarray:
    """Layers (z, y, x) in [-1, 1] of a random direction, gently bent: regular, so predictable from what is around."""
    # Less along z, where voxels are long: layers thinner than two slices could not be seen.
    direction = canvas.rng.standard_normal(3) * (0.4, 1.0, 1.0)
    direction /= np.linalg.norm(direction)
    along = np.tensordot(direction, canvas.grid_mm, axes=1) + 1.2 * canvas.smooth_field(canvas.image.shape, 8.0)
    return np.sin(2 * np.pi * along / period_mm + canvas.rng.uniform(0, 2 * np.pi))


def _acquire(canvas: _Canvas) -> np.ndarray:
    """What a scanner makes of it: bias field, blur, noise, an arbitrary scale; float32 (z, y, x)."""
    rng, shape = canvas.rng, canvas.image.shape
    bias = np.exp(rng.uniform(0.06, 0.15) * canvas.smooth_field(shape, 18.0))
    image = gaussian_filter(canvas.image * bias, 0.4)
    noise = gaussian_filter(rng.standard_normal(shape), 0.5)
    image = image + rng.uniform(0.02, 0.04) * noise / noise.std()
    return (rng.uniform(300, 900) * np.abs(image)).astype(np.float32)


def write_dataset(folder: Path, seed: int, roles: Mapping[str, int], labelled: bool) -> list[str]:
    """Write cases in nnU-Net's raw layout: imagesTr, labelsTr (if labelled), dataset.json.

    Args:
        folder: raw dataset folder, for example nnUNet_raw/Dataset902_DemoTarget.
        seed: seed of the data set.
        roles: number of cases per role.
        labelled: whether to write labels.

    Returns:
        Case names, in the order of `roles`.
    """
    names = []
    for role, count in roles.items():
        for number in range(count):
            case, name = make_case(seed, role, number), f"{role}_{number:03d}"
            _write_image(case.image, case.spacing, folder / "imagesTr" / f"{name}_0000{FILE_ENDING}")
            if labelled:
                _write_image(case.label, case.spacing, folder / "labelsTr" / f"{name}{FILE_ENDING}")
            names.append(name)
    labels = LABELS if labelled else {"background": LABELS["background"]}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(names), "file_ending": FILE_ENDING}
    write_json(content, folder / "dataset.json")
    return names


def _write_image(array: np.ndarray, spacing: tuple[float, float, float], path: Path) -> None:
    """Write (z, y, x) with its spacing in mm; SimpleITK counts axes the other way round."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(path))
