from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnssl.data.images import check_file
from nnssl.data.nrrd import check_nrrd, is_time_list
from nnssl.data.parallel import Failure
from tests.conftest import real_data, write_image


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
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
def test_good_files_pass(tmp_path: Path, name: str, compress: bool, dtype: str) -> None:
    check_nrrd(write(tmp_path / name, compress, dtype))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr"])
def test_truncated_data_are_found(tmp_path: Path, name: str, compress: bool) -> None:
    path = write(tmp_path / name, compress)
    data = path if name == "a.nrrd" else next(p for p in tmp_path.iterdir() if p != path)
    data.write_bytes(data.read_bytes()[:-40])
    with pytest.raises(Failure, match="truncated"):
        check_file(path)


def test_missing_data_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nhdr", False)
    next(p for p in tmp_path.iterdir() if p != path).unlink()
    with pytest.raises(Failure, match=r"a\.raw does not exist"):
        check_nrrd(path)


def test_spacing_must_be_there_and_positive(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nrrd", False)
    header(path, "space directions: (0.5,0,0)", "space directions: (0.0,0,0)")
    with pytest.raises(Failure, match=r"spacing \[0.0, 0.6, 2.0\] mm is not positive"):
        check_nrrd(path)
    header(path, "space directions:", "#pace directions:")
    with pytest.raises(Failure, match="no voxel spacing"):
        check_nrrd(path)


def test_words_where_numbers_should_be(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nrrd", False)
    header(path, "space directions: (0.5,", "space directions: (o.5,")
    with pytest.raises(Failure, match="header is damaged"):
        check_nrrd(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("sizes: 14 13 12", "sizes: 140000 130000 120000", "GiB of memory"),
        ("sizes: 14 13 12", "sizes: 14 0 12", "not positive"),
        ("dimension: 3", "dimension: 4", "dimension 4, but 3 sizes"),
        ("dimension: 3", "dimension: 99999999999999999999", "dimension 99999999999999999999, but 3"),
        ("type: short", "type: block", "is no number"),
        ("space directions: (0.5,", "space directions: (1e30,", "damaged: space directions"),
        ("space origin: (0,", "space origin: (nan,", None),
        ("space origin: (0,", "space origin: (-inf,", "damaged: space origin"),
    ],
)
def test_damaged_headers_are_refused_before_a_reader_sees_them(
    tmp_path: Path, old: str, new: str, said: str | None
) -> None:
    """ITK takes all memory, or searches for the axes of an absurd matrix for minutes."""
    path = write(tmp_path / "a.nrrd", False)
    header(path, old, new)
    if said is None:  # "nan" is how the format says that a place is not known
        check_nrrd(path)
        return
    with pytest.raises(Failure, match=said):
        check_nrrd(path)


def test_as_many_axes_as_no_reader_has_room_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nrrd", False)
    header(path, "dimension: 3", "dimension: 17")
    header(path, "sizes: 14 13 12", f"sizes: 14 13 12{' 1' * 14}")
    with pytest.raises(Failure, match="17 sizes"):
        check_nrrd(path)


def test_a_line_without_an_end_is_refused(tmp_path: Path) -> None:
    """Teem's parser, inside ITK, may crash on it."""
    path = write(tmp_path / "a.nrrd", False)
    header(path, "space origin: (0,", f"space origin: ({'9' * 20_000},")
    with pytest.raises(Failure, match="line without an end"):
        check_nrrd(path)


def test_other_files_are_no_nrrd(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_text("hello")
    with pytest.raises(Failure, match="not an NRRD"):
        check_file(tmp_path / "a.nrrd")


def test_list_of_directions_is_told_from_colour(tmp_path: Path) -> None:
    """A diffusion file lists its directions first; so does a colour image its colours."""
    voxels = np.arange(6 * 10 * 10 * 10, dtype="<i2")
    head = (
        "NRRD0004\ntype: short\ndimension: 4\nspace: left-posterior-superior\nsizes: 6 10 10 10\n"
        "space directions: none (1,0,0) (0,1,0) (0,0,2)\nkinds: {} domain domain domain\nendian: little\n"
        "encoding: raw\nspace origin: (0,0,0)\n\n"
    )
    for kind, expected in (("list", True), ("vector", False)):
        path = tmp_path / f"{kind}.nrrd"
        path.write_bytes(head.format(kind).encode() + voxels.tobytes())
        check_nrrd(path)
        assert is_time_list(path) is expected


@pytest.mark.data
def test_real_file_passes(tmp_path: Path) -> None:
    check_nrrd(real_data("odd/formats") / "mr_breast.nrrd")


def test_written_images_pass(tmp_path: Path) -> None:
    write_image(np.zeros((4, 5, 6), np.float32), tmp_path / "a.nrrd")
    check_nrrd(tmp_path / "a.nrrd")
