from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnssl.data.importing.dicom_headers import is_dicom, read_header
from nnssl.data.importing.dicom_series import modalities, series_to_items
from nnssl.data.importing.items import Item, LeftOut
from nnssl.data.importing.volumes import load_volumes
from nnssl.data.parallel import Failure
from tests.conftest import real_data
from tests.data.importing import dicom_files as d


def sort(folder: Path, channel: str = "") -> tuple[list[Item], list[LeftOut]]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    random.Random(0).shuffle(files)
    return series_to_items([read_header(p) for p in files], channel, folder)


def voxels(item: Item) -> list[np.ndarray]:
    return [sitk.GetArrayFromImage(v.images[0]) for v in load_volumes(item, None)]


def test_series_becomes_a_volume_with_slope_spacing_and_axes(tmp_path: Path) -> None:
    stored = d.volume()
    d.write_series(tmp_path, stored)
    (item,), left_out = sort(tmp_path, "CT")
    assert not left_out
    (volume,) = load_volumes(item, None)
    image = volume.images[0]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), stored.astype(int) - 1024)
    assert image.GetPixelID() == sitk.sitkInt16
    assert image.GetSpacing() == pytest.approx((0.8, 0.7, 2.5))  # not SliceThickness, which says 9
    assert image.GetOrigin() == pytest.approx((-100, -90, 40))
    assert not image.GetMetaDataKeys()
    assert not item.notes


def test_slope_of_every_slice_is_its_own(tmp_path: Path) -> None:
    """PET scales every slice; the first has a slope of 1, which must not make whole numbers of the others."""
    stored = d.volume()
    slopes = [(1 + 0.37 * z, 0.0) for z in range(len(stored))]
    d.write_series(tmp_path, stored, sop_class=d.PET, modality="PT", rescales=slopes)
    (item,), _ = sort(tmp_path, "PET")
    (found,) = voxels(item)
    assert found.dtype == np.float32
    expected = stored * np.array([s for s, _ in slopes])[:, None, None]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("axes", "step", "code"),
    [
        ((1, 0, 0, 0, 1, 0), (0, 0, 3), "LPS"),
        ((0, 1, 0, 0, 0, -1), (-3, 0, 0), "PIR"),  # sagittal
        ((1, 0, 0, 0, 0, -1), (0, 3, 0), "LIP"),  # coronal
    ],
)
def test_orientation_is_kept(tmp_path: Path, axes: tuple, step: tuple, code: str) -> None:
    """A voxel lies where DICOM says: position + column * x * spacing + row * y * spacing."""
    stored = d.volume()
    d.write_series(tmp_path, stored, axes=axes, step=step)
    (item,), _ = sort(tmp_path)
    image = next(load_volumes(item, None)).images[0]
    assert sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection()) == code
    z, y, x = 7, 3, 11
    place = np.array((-100, -90, 40)) + z * np.array(step) + np.array(axes[:3]) * 0.8 * x + np.array(axes[3:]) * 0.7 * y
    index = image.TransformPhysicalPointToIndex([float(v) for v in place])
    assert int(image[index]) == int(stored[z, y, x]) - 1024


def test_slices_in_the_other_direction_are_the_same_volume(tmp_path: Path) -> None:
    stored = d.volume()
    d.write_series(tmp_path, stored[::-1], step=(0, 0, -2.5), origin=(-100, -90, 40 + 9 * 2.5))
    (item,), _ = sort(tmp_path)
    np.testing.assert_array_equal(voxels(item)[0], stored.astype(int) - 1024)


def test_missing_slice_is_reported(tmp_path: Path) -> None:
    d.write_series(tmp_path, d.volume(), skip=(4,))
    (item,), _ = sort(tmp_path)
    assert item.geometry is not None
    assert item.geometry.spacing[2] == pytest.approx(2.5)
    assert "steps from 2.5 to 5 mm" in item.notes[0]
    assert "1 slice(s) seem to be missing" in item.notes[0]


def test_rounded_positions_are_even(tmp_path: Path) -> None:
    d.write_series(tmp_path, d.volume(), step=(0, 0, 1.24999), origin=(0, 0, -1000.003))
    (item,), _ = sort(tmp_path)
    assert not item.notes


@pytest.mark.parametrize("angle", [15.0, -22.5])
def test_gantry_tilt_is_reported_with_its_angle(tmp_path: Path, angle: float) -> None:
    """The gantry is tilted, the table moves straight: slices are shifted against each other."""
    a = np.radians(angle)
    d.write_series(tmp_path, d.volume(), axes=(1, 0, 0, 0, np.cos(a), np.sin(a)), step=(0, 0, 4))
    (item,), _ = sort(tmp_path)
    assert f"gantry tilt of {abs(angle):.1f} degrees" in item.notes[0]
    assert item.geometry is not None
    assert item.geometry.spacing[2] == pytest.approx(4 * np.cos(a), rel=1e-4)


def test_oblique_is_no_tilt(tmp_path: Path) -> None:
    a = np.radians(20)
    d.write_series(
        tmp_path, d.volume(), axes=(1, 0, 0, 0, np.cos(a), np.sin(a)), step=(0, -4 * np.sin(a), 4 * np.cos(a))
    )
    (item,), _ = sort(tmp_path)
    assert not item.notes


def test_two_series_in_a_folder_and_one_over_two(tmp_path: Path) -> None:
    a, b = d.volume(seed=1), d.volume((12, 20, 24), seed=2)
    d.write_series(tmp_path / "one", a, series=1)
    for path in d.write_series(tmp_path / "one", b, series=2)[6:]:
        (tmp_path / "two").mkdir(exist_ok=True)
        path.rename(tmp_path / "two" / path.name)
    items, left_out = sort(tmp_path, "CT")
    assert not left_out
    assert [v.shape for item in items for v in voxels(item)] == [(10, 20, 24), (12, 20, 24)]
    assert [item.where for item in items] == [
        "series 1 (CT, 10 image(s) of 24x20)",
        "series 2 (CT, 12 image(s) of 24x20)",
    ]


def test_same_image_twice_counts_once(tmp_path: Path) -> None:
    paths = d.write_series(tmp_path, d.volume())
    (tmp_path / "copy").write_bytes(paths[3].read_bytes())
    (item,), left_out = sort(tmp_path)
    assert not left_out
    assert len(item.files[0]) == 10
    assert "1 image(s) of the series are there more than once" in item.notes[0]


def test_blanked_identifiers_do_not_mix_or_lose_images(tmp_path: Path) -> None:
    """Some anonymisers give one UID to everything."""
    uids = {(8, 0x18): ("UI", "1.2.3"), (0x20, 0xE): ("UI", "1.2.4")}
    stored = [d.volume(seed=n) for n in range(2)]
    for n, volume in enumerate(stored):
        d.write_series(tmp_path / str(n), volume, extra=uids, patient_id=f"person {n}")
    items, left_out = sort(tmp_path)
    assert not left_out
    for item, volume in zip(items, stored, strict=True):
        assert not item.notes
        np.testing.assert_array_equal(voxels(item)[0], volume.astype(int) - 1024)


@pytest.mark.parametrize("tag", [(0x20, 0x100), (0x18, 0x81), (0x18, 0x1060)])
def test_time_points_and_echoes_are_frames(tmp_path: Path, tag: tuple[int, int]) -> None:
    stored = [d.volume(seed=s) for s in range(3)]
    for t, volume in enumerate(stored):
        d.write_series(tmp_path, volume, first=1 + 10 * (2 - t), extra={tag: ("IS", 3 + 4 * t)})
    (item,), _ = sort(tmp_path)
    assert "3 volumes at the same place" in item.notes[0]
    for found, expected in zip(voxels(item), stored, strict=True):
        np.testing.assert_array_equal(found, expected.astype(int) - 1024)


def test_frames_that_no_tag_tells_apart_go_by_turns(tmp_path: Path) -> None:
    stored = [d.volume(seed=s) for s in range(2)]
    d.write_series(tmp_path, stored[0])
    d.write_series(tmp_path, stored[1], first=11, skip=(9,))
    (item,), _ = sort(tmp_path)
    assert len(item.files) == 1  # the second lacks a slice
    np.testing.assert_array_equal(voxels(item)[0], stored[0].astype(int) - 1024)
    assert "9 image(s) repeat slice positions" in item.notes[0]


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("lengths", [True, False])
def test_multi_frame_file(tmp_path: Path, explicit: bool, lengths: bool) -> None:
    stored = d.volume()
    d.write_enhanced(tmp_path / "enhanced", stored, 3, slopes=[0.5], explicit=explicit, lengths=lengths)
    (item,), left_out = sort(tmp_path, "CT")
    assert not left_out
    image = next(load_volumes(item, None)).images[0]
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), stored * 0.5 - 1024)
    assert image.GetSpacing() == pytest.approx((0.8, 0.7, 2.5))


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4], [4, 4, 1, 1, 3, 3, 0, 0, 2, 2]])
def test_multi_frame_file_over_time_in_any_order(tmp_path: Path, order: list[int]) -> None:
    """GDCM would pile all of it up to one volume."""
    stored = d.volume()
    d.write_enhanced(tmp_path / "enhanced", stored, 3, heights=[3.0 * place for place in order])
    (item,), _ = sort(tmp_path, "CT")
    frames = voxels(item)
    assert "2 volumes at the same place" in item.notes[0]
    for t, frame in enumerate(frames):
        planes = [[k for k, place in enumerate(order) if place == z][t] for z in range(5)]
        np.testing.assert_array_equal(frame, stored[planes].astype(int) - 1024)
    assert item.geometry is not None
    assert item.geometry.spacing == pytest.approx((0.8, 0.7, 3))


def test_multi_frame_file_with_a_gap(tmp_path: Path) -> None:
    """GDCM would take 1 mm for every spacing."""
    d.write_enhanced(tmp_path / "enhanced", d.volume(), 3, heights=[0, 2, 4, 6, 10, 12, 14, 16, 18, 20])
    (item,), _ = sort(tmp_path, "CT")
    assert "1 slice(s) seem to be missing" in item.notes[0]
    assert item.geometry is not None
    assert item.geometry.spacing == pytest.approx((0.8, 0.7, 2))


def test_multi_frame_file_with_several_slopes_is_refused(tmp_path: Path) -> None:
    d.write_enhanced(tmp_path / "enhanced", d.volume(), 3, slopes=[1 + 0.1 * k for k in range(10)])
    items, (out,) = sort(tmp_path, "CT")
    assert not items
    assert "a slope for each slice" in out.reason


def test_multi_frame_film_is_left_out(tmp_path: Path) -> None:
    stored = d.volume()
    elements = d.image(stored[0], 3, 1, None, sop_class="1.2.840.10008.5.1.4.1.1.3.1", modality="US")
    elements |= {(0x28, 8): ("IS", 10), (0x7FE0, 0x10): ("OW", stored.tobytes())}
    d.write_dicom(tmp_path / "film", elements)
    items, (out,) = sort(tmp_path)
    assert not items
    assert "film" in out.reason


@pytest.mark.parametrize(
    ("how", "channel", "reason"),
    [
        ({"image_type": "ORIGINAL\\PRIMARY\\LOCALIZER"}, "CT", "localiser"),
        ({"sop_class": d.MR, "modality": "MR"}, "CT", "modality MR, but --channel is CT"),
        ({}, "T2w", "modality CT, but --channel is T2w"),
        ({"image_type": "DERIVED\\SECONDARY\\SCREEN SAVE"}, "CT", "screenshot"),
        ({"step": (0, 0, 0), "skip": range(1, 10)}, "CT", "a single image"),
        ({"step": (0, 0, 0)}, "CT", "10 images at only 1 slice position"),
    ],
)
def test_what_is_no_volume_is_left_out(tmp_path: Path, how: dict, channel: str, reason: str) -> None:
    d.write_series(tmp_path, d.volume(), **how)
    items, left_out = sort(tmp_path, channel)
    assert not items
    assert reason in left_out[0].reason
    assert not any(secret in left_out[0].where for secret in d.SECRETS)


def test_derived_secondary_alone_is_no_screenshot(tmp_path: Path) -> None:
    """Resampled CT says DERIVED\\SECONDARY too."""
    d.write_series(tmp_path, d.volume(), image_type="DERIVED\\SECONDARY\\REFORMATTED")
    assert len(sort(tmp_path, "CT")[0]) == 1


def test_scout_inside_a_series_does_not_spoil_it(tmp_path: Path) -> None:
    d.write_series(tmp_path, d.volume())
    scout = d.image(d.volume((1, 30, 24))[0], 1, 99, (0, 0, 0), axes=(1, 0, 0, 0, 0, -1))
    d.write_dicom(tmp_path / "scout", scout)
    (item,), (out,) = sort(tmp_path, "CT")
    assert not item.notes
    assert "localiser" in out.reason


def test_three_plane_localiser_without_the_word(tmp_path: Path) -> None:
    for n, (axes, step) in enumerate(
        [((1, 0, 0, 0, 1, 0), (0, 0, 9)), ((0, 1, 0, 0, 0, -1), (9, 0, 0)), ((1, 0, 0, 0, 0, -1), (0, 9, 0))]
    ):
        d.write_series(tmp_path, d.volume((5, 20, 24)), axes=axes, step=step, first=1 + 10 * n, sop_class=d.MR)
    items, left_out = sort(tmp_path)
    assert not items
    assert len(left_out) == 3


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        (d.patient(d.RTSTRUCT, "RTSTRUCT", 5, 1), "RTSTRUCT"),
        (d.patient(d.REPORT, "SR", 5, 1), "structured report"),
        (d.image(d.volume()[0], 5, 1, None, sop_class=d.SECONDARY_CAPTURE, modality="OT"), "secondary capture"),
        (d.patient(d.CT, "CT", 5, 1), "not an image that GDCM can read"),
    ],
)
def test_objects_that_are_no_images(tmp_path: Path, elements: dict, reason: str) -> None:
    d.write_dicom(tmp_path / "object", elements)
    assert is_dicom(tmp_path / "object")
    with pytest.raises(Failure, match=reason):
        read_header(tmp_path / "object")


def test_colour_and_missing_position(tmp_path: Path) -> None:
    d.write_dicom(tmp_path / "a", d.image(np.full((16, 16, 3), 7), 5, 1, (0, 0, 0)))
    d.write_dicom(tmp_path / "b", d.image(d.volume()[0], 6, 1, None))
    items, left_out = sort(tmp_path)
    assert not items
    assert ["colour" in o.reason for o in left_out] == [True, False]
    assert "no slice position" in left_out[1].reason


def test_files_without_marker_and_other_files(tmp_path: Path) -> None:
    d.write_dicom(tmp_path / "old.dcm", d.image(d.volume()[0], 5, 1, (0, 0, 0)), marker=False)
    assert is_dicom(tmp_path / "old.dcm")
    for name, content in (("note", b"x" * 400), ("empty", b""), ("picture.dcm", b"\x89PNG" * 100)):
        (tmp_path / name).write_bytes(content)
        assert not is_dicom(tmp_path / name)


def test_damaged_slice_is_named_and_the_gap_reported(tmp_path: Path) -> None:
    paths = d.write_series(tmp_path, d.volume())
    paths[5].write_bytes(paths[5].read_bytes()[:-200])
    with pytest.raises(Failure, match="GDCM"):
        read_header(paths[5])
    paths[5].unlink()
    assert "missing" in sort(tmp_path)[0][0].notes[0]


def test_channel_names_and_modalities() -> None:
    assert modalities("CT") == {"CT"}
    assert modalities("cineMRI") == modalities("T1w") == modalities("MR") == {"MR"}
    assert modalities("PET") == {"PT"}
    assert modalities("something") == set()


@pytest.mark.data
def test_real_series_is_the_volume_that_came_with_it() -> None:
    folder = real_data("odd/formats")
    (item,), _ = sort(folder / "ct_dicom_series", "CT")
    image = next(load_volumes(item, None)).images[0]
    other = sitk.ReadImage(str(folder / "ct_64.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(other))
    assert image.GetSpacing() == pytest.approx(other.GetSpacing(), rel=1e-3)
