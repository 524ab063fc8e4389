from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnssl.data.images import check_file
from nnssl.data.metaimage import check_metaimage
from nnssl.data.parallel import Failure
from nnssl.data.payload import PIECE, Payload
from tests.conftest import real_data


def write(path: Path, compress: bool, dtype: str = "int16") -> Path:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 99, (12, 13, 14)).astype(dtype))
    image.SetSpacing((0.5, 0.6, 2.0))
    sitk.WriteImage(image, str(path), useCompression=compress)
    return path


def header(path: Path, old: str, new: str) -> None:
    text = path.read_bytes()
    assert old.encode() in text
    path.write_bytes(text.replace(old.encode(), new.encode()))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64", "int64"])
def test_good_files_pass(tmp_path: Path, name: str, compress: bool, dtype: str) -> None:
    check_metaimage(write(tmp_path / name, compress, dtype))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_truncated_data_are_found(tmp_path: Path, name: str, compress: bool) -> None:
    path = write(tmp_path / name, compress)
    data = path if name == "a.mha" else next(p for p in tmp_path.iterdir() if p != path)
    data.write_bytes(data.read_bytes()[:-40])
    with pytest.raises(Failure, match="truncated"):
        check_file(path)


def test_missing_data_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mhd", False)
    (tmp_path / "a.raw").unlink()
    with pytest.raises(Failure, match=r"a\.raw does not exist"):
        check_metaimage(path)


@pytest.mark.parametrize("name", ["L" * 5000, "a\0b.raw"])
def test_a_name_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.mha", False)
    header(path, "ElementDataFile = LOCAL", f"ElementDataFile = {name}")
    with pytest.raises(Failure, match=r"data file .* (cannot be read|does not exist)") as raised:
        check_metaimage(path)
    assert len(str(raised.value)) < 200


def test_data_that_unpack_to_a_thousand_times_their_size_are_not_all_unpacked(tmp_path: Path) -> None:
    """A file of half a megabyte would take half a gigabyte at once."""
    path = tmp_path / "bomb.gz"
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    path.write_bytes(b"".join(pack.compress(bytes(2**20)) for _ in range(512)) + pack.flush())
    tracemalloc.start()
    try:
        Payload(path, 0).check(10, "gzip")
        with pytest.raises(Failure, match="536,870,912 of 600,000,000 bytes"):
            Payload(path, 0).check(600_000_000, "gzip")
        assert tracemalloc.get_traced_memory()[1] < 4 * PIECE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", ["-1", "999999999999"])
def test_a_packed_size_that_is_a_lie_makes_no_room(tmp_path: Path, size: str) -> None:
    path = write(tmp_path / "a.mha", True)
    there = next(line for line in path.read_bytes().split(b"\n") if line.startswith(b"CompressedDataSize"))
    header(path, there.decode(), f"CompressedDataSize = {size}")
    with pytest.raises(Failure, match=f"damaged: CompressedDataSize {size}"):
        check_metaimage(path)


@pytest.mark.parametrize("start", [10**30, 2**63])
def test_a_place_that_no_file_can_have(tmp_path: Path, start: int) -> None:
    (tmp_path / "a.gz").write_bytes(b"1234")
    with pytest.raises(Failure, match="truncated: 0 of 10 bytes"):
        Payload(tmp_path / "a.gz", start).check(10, "gzip")


def test_spacing_must_be_there_and_positive(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mha", False)
    header(path, "ElementSpacing = 0.5", "ElementSpacing = 0.0")
    with pytest.raises(Failure, match=r"spacing \[0.0, 0.6, 2.0\] mm is not positive"):
        check_metaimage(path)
    header(path, "ElementSpacing", "Elementspycing")
    with pytest.raises(Failure, match="no voxel spacing"):
        check_metaimage(path)


def test_words_where_numbers_should_be(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mha", False)
    header(path, "DimSize = 14", "DimSize = l4")
    with pytest.raises(Failure, match="header is damaged"):
        check_metaimage(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("DimSize = 14 13 12", "DimSize = 140000 130000 120000", "GiB of memory"),
        ("DimSize = 14 13 12", "DimSize = 14 -13 12", "DimSize or ElementType"),
        ("DimSize = 14 13 12", "DimSize = 14 13 inf", "header is damaged"),
        ("NDims = 3", "NDims = 4", "NDims 4, but 3 sizes"),
        ("ElementSpacing = 0.5 ", "ElementSpacing = 0.5\nComment = ", "NDims 3, but 3 sizes"),
        ("ElementType = MET_SHORT", "ElementNumberOfChannels = 0\nElementType = MET_SHORT", "0 channels"),
        ("ElementType = MET_SHORT", "ElementNumberOfChannels = 9999999999\nElementType = MET_SHORT", "GiB of memory"),
        ("TransformMatrix = 1 0", "TransformMatrix = 1e30 0", "damaged: transformmatrix"),
        ("Offset = 0 0", "Offset = nan 0", "damaged: offset"),
        ("CenterOfRotation = 0 0", "CenterOfRotation = 0 inf", "damaged: centerofrotation"),
        ("ObjectType = Image", "ObjectType = " + "9" * 200_000, "names no data"),
    ],
)
def test_damaged_headers_are_refused_before_a_reader_sees_them(tmp_path: Path, old: str, new: str, said: str) -> None:
    """ITK takes all memory, reads beyond its arrays, or searches for the axes of an absurd matrix for ever."""
    path = write(tmp_path / "a.mha", False)
    header(path, old, new)
    with pytest.raises(Failure, match=said):
        check_metaimage(path)


def test_as_many_axes_as_no_reader_has_room_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mha", False)
    header(path, "NDims = 3", "NDims = 11")
    header(path, "DimSize = 14 13 12", f"DimSize = 14 13 12{' 1' * 8}")
    header(path, "ElementSpacing = ", f"ElementSpacing = {'1 ' * 8}")
    with pytest.raises(Failure, match="11 sizes"):
        check_metaimage(path)


def test_a_header_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(b"a = b\n" * 100_000)
    with pytest.raises(Failure, match="names no data"):
        check_metaimage(tmp_path / "a.mha")


def test_other_files_are_no_metaimage(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_text("hello")
    with pytest.raises(Failure, match="not a MetaImage"):
        check_file(tmp_path / "a.mha")


@pytest.mark.data
def test_real_file_passes() -> None:
    check_metaimage(real_data("odd/formats") / "ct_lung.mha")
