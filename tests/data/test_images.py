from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnssl.data.images import check_file, read_case, voxel_digest
from nnssl.data.parallel import Failure


class Reader:
    """Gives what a damaged header can make of nnU-Net's readers."""

    def __init__(self, data: Any, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> None:
        self.data, self.spacing = data, spacing

    def read_images(self, files: list[str]) -> tuple[np.ndarray, dict]:
        if isinstance(self.data, Exception):
            raise self.data
        return self.data, {"spacing": self.spacing}


IMAGE = np.random.default_rng(0).random((1, 9, 10, 11), np.float32)
HOLED = np.where(IMAGE > 0.9, np.float32(np.nan), IMAGE)


@pytest.mark.parametrize(
    ("reader", "said"),
    [
        (Reader(IMAGE, (1.0, 0.0, 1.0)), "not positive"),
        (Reader(IMAGE, (1.0, np.nan, 1.0)), "not positive"),
        (Reader(IMAGE, (1e30, 1.0, 1.0)), "is no scan's"),
        (Reader(np.concatenate([IMAGE, IMAGE])), r"has 2 channel"),
        (Reader(IMAGE[:, :7, :7]), "only 7x7x11 voxels"),
        (Reader(HOLED), "NaN or infinite"),
        (Reader(np.full_like(IMAGE, 3)), r"same value \(3\)"),
        (Reader(RuntimeError("sitk::ERROR: something\n about /data/a.nrrd")), "cannot be read: something about a.nrrd"),
        (Reader(ZeroDivisionError()), "cannot be read: ZeroDivisionError"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(reader: Reader, said: str) -> None:
    with pytest.raises(Failure, match=said) as caught:
        read_case(["/data/a.nrrd"], reader, 1)
    assert "\n" not in str(caught.value)


def test_an_honest_image_passes() -> None:
    assert read_case(["a"], Reader(IMAGE, (999.0, 1.0, 1.0)), 1)[0] is IMAGE, "999 mm: a 2D image, to nnU-Net"


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"), (None, "does not exist")],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(Failure, match=said):
        check_file(tmp_path / "a.png")


def test_digest_sees_voxels_and_shape_only() -> None:
    data = np.random.default_rng(0).standard_normal((1, 4, 5, 6)).astype(np.float32)
    assert voxel_digest(data) == voxel_digest(np.asfortranarray(data).copy())
    changed = data.copy()
    changed[0, 1, 2, 3] += 1e-3
    assert voxel_digest(changed) != voxel_digest(data)
    assert voxel_digest(data.reshape(1, 5, 4, 6)) != voxel_digest(data)
