from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnssl.data.store import CaseReader, open_case, save_case
from nnssl.errors import NnsslError

PATCH = (8, 8, 8)


def store(folder: Path, half: bool, scale: float = 1.0, name: str = "case") -> np.ndarray:
    data = (scale * np.random.default_rng(0).standard_normal((2, 9, 12, 7))).astype(np.float32)
    seg = np.zeros((1, 9, 12, 7), np.int16)
    save_case(folder / name, data, seg, np.zeros((3, 3), np.int32), {"class_locations": {}}, PATCH, half)
    return data


@pytest.mark.parametrize("lower", [(0, 0, 0), (1, 4, 0), (-2, -3, -1), (5, 8, 3), (-1, 0, 2)])
def test_a_crop_is_the_padded_image(tmp_path: Path, lower: tuple[int, int, int]) -> None:
    data = store(tmp_path, half=False)
    crop, inside = CaseReader().crop(tmp_path / "case.b2nd", lower, (8, 8, 6))
    padded = np.pad(data, ((0, 0), (10, 10), (10, 10), (10, 10)))
    z, y, x = (lo + 10 for lo in lower)
    assert np.array_equal(crop, padded[:, z : z + 8, y : y + 8, x : x + 6])
    ones = np.pad(np.ones(data.shape[1:], bool), 10)[z : z + 8, y : y + 8, x : x + 6]
    box = np.zeros_like(ones)
    box[tuple(slice(*b) for b in inside)] = True
    assert np.array_equal(box, ones)


def test_unlabelled_cases_are_stored_in_half_precision_unless_too_large(tmp_path: Path) -> None:
    data = store(tmp_path, half=True)
    crop, _ = CaseReader().crop(tmp_path / "case.b2nd", (0, 0, 0), (9, 12, 7))
    assert crop.dtype == np.float16
    assert np.abs(crop - data).max() < 2e-3
    store(tmp_path, half=True, scale=1e6, name="large")
    assert CaseReader().crop(tmp_path / "large.b2nd", (0, 0, 0), (9, 12, 7))[0].dtype == np.float32


def test_nnunet_reads_the_store(tmp_path: Path) -> None:
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    data = store(tmp_path, half=False)
    dataset = infer_dataset_class(str(tmp_path))(str(tmp_path))
    assert dataset.identifiers == ["case"]
    image, seg, _, properties = dataset.load_case("case")
    assert np.array_equal(image[:], data)
    assert seg.shape == (1, 9, 12, 7)
    assert "class_locations" in properties


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store(tmp_path, half=False)
    (tmp_path / "case.b2nd").write_bytes(b"nonsense")
    with pytest.raises(NnsslError, match=r"case\.b2nd cannot be read"):
        CaseReader().crop(tmp_path / "case.b2nd", (0, 0, 0), PATCH)


@pytest.mark.parametrize(
    "array", [np.zeros((9, 12, 7), np.float32), np.zeros((1, 9, 12, 7), "S3"), np.zeros((1001, 2, 2, 2), np.int8)]
)
def test_a_header_that_says_something_else_is_named(tmp_path: Path, array: np.ndarray) -> None:
    """A crop of it would have another form, or need all memory for its channels."""
    import blosc2

    blosc2.asarray(array, urlpath=str(tmp_path / "case.b2nd"))
    with pytest.raises(NnsslError, match=r"case\.b2nd is damaged \(shape .* run nnssl_plan_and_preprocess again"):
        open_case(tmp_path / "case.b2nd")


def test_a_chunk_that_cannot_be_unpacked_is_named(tmp_path: Path) -> None:
    store(tmp_path, half=False)
    path = tmp_path / "case.b2nd"
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 400] = b"\xff" * 400
    path.write_bytes(content)
    with pytest.raises(NnsslError, match=r"case\.b2nd is damaged"):
        CaseReader().crop(path, (0, 0, 0), (9, 12, 7))


def test_nothing_half_written_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import blosc2

    def fails(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(blosc2, "asarray", fails)
    with pytest.raises(OSError, match="disk full"):
        store(tmp_path, half=False)
    assert not [p.name for p in tmp_path.iterdir() if p.name.endswith((".b2nd", ".tmp")) or ".tmp" in p.name]
