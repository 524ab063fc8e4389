from __future__ import annotations

from nnssl.data.importing.items import NIFTI, Found, Item, LeftOut, Written
from nnssl.data.importing.report import Report
from nnssl.data.importing.summary import summary_lines


def taken(report: Report, name: str, orientation: str = "LPS", **how: object) -> None:
    item = Item(NIFTI, ((f"/secret/{name}.nii.gz",),), f"{name}.nii.gz", f"{name}.nii.gz")
    values = {"frame": 0, "frames": 1, "files": (), "linked": False, "shape": (10, 20, 30), "spacing": (3.0, 1, 1)}
    values |= {"orientation": orientation, "dtype": "int16", "digest": name, "notes": ()}
    report.take(item, Written(**{**values, **how}), name, "")  # type: ignore[arg-type]


def test_reasons_that_differ_in_numbers_are_one_line() -> None:
    found = Found(left_out=[LeftOut(NIFTI, n, n, f"{len(n)} voxel(s) are NaN") for n in ("a", "b", "cc", "d", "e")])
    report = Report(found)
    taken(report, "x")
    text = "\n".join(summary_lines(report))
    assert "5 x 1 voxel(s) are NaN, or other numbers: a, b, cc, ... (5 in all)" in text


def test_the_pool_is_described() -> None:
    report = Report(Found(other_files={".txt": 2}))
    taken(report, "x", notes=("gantry tilt of 3 degrees",))
    taken(report, "y", spacing=(5.0, 1, 1), shape=(12, 20, 30), orientation="RAS", notes=("gantry tilt of 3 degrees",))
    lines = list(summary_lines(report))
    assert "spacing      3-5 x 1 x 1 mm (z, y, x)" in lines
    assert "shape        10-12 x 20 x 30 voxels (z, y, x)" in lines
    assert "other files  2 .txt" in lines
    assert "WARNING: x, y: gantry tilt of 3 degrees" in lines
    assert any("mixes orientations: LPS (1), RAS (1)" in line for line in lines)
    assert "secret" not in str(report.as_json())
