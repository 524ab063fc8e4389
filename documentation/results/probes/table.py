"""What is known of every labelled frame of ACDC, for nnssl_probe.

python documentation/results/probes/table.py $nnUNet_raw/Dataset027_ACDC table.csv

Spacing and field of view come from the image headers, volumes and the phase from the label maps, patient and pathology
group from the data set's cases.csv.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

LABELS = {"rv_ml": 1, "myo_ml": 2, "lv_ml": 3}
THICK = 8.0
"""Slices of 10 mm on one side of it, of 5 to 7 mm on the other."""


def of_frame(image: Path, label: Path) -> dict[str, object]:
    """Spacing, field of view (mm) and volumes (ml) of a frame."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(image))
    reader.ReadImageInformation()
    (sx, sy, sz), (nx, ny, _) = reader.GetSpacing(), reader.GetSize()
    labels = sitk.ReadImage(str(label))
    voxel = float(np.prod(labels.GetSpacing())) / 1000
    found = sitk.GetArrayViewFromImage(labels)
    volumes = {name: round(float((found == value).sum()) * voxel, 1) for name, value in LABELS.items()}
    fov = np.sqrt(nx * sx * ny * sy)
    return {
        "pixel_mm": round(sx, 4),
        "slices": "thick" if sz > THICK else "thin",
        "fov_mm": round(float(fov), 1),
        **volumes,
    }


def main() -> None:
    dataset, out = Path(sys.argv[1]), Path(sys.argv[2])
    with (dataset / "cases.csv").open(newline="", encoding="utf-8") as file:
        known = {row["case"]: row for row in csv.DictReader(file)}
    rows: dict[str, dict[str, object]] = {}
    for label in sorted((dataset / "labelsTr").glob("*.nii.gz")):
        case = label.name.removesuffix(".nii.gz")
        about = {"case": case, "patient": known[case]["patient"], "group": known[case]["group"]}
        rows[case] = about | of_frame(dataset / "imagesTr" / f"{case}_0000.nii.gz", label)
    for row in rows.values():  # end-diastole has the larger left ventricle of a patient's two frames
        largest = max(float(str(r["lv_ml"])) for r in rows.values() if r["patient"] == row["patient"])
        row["phase"] = "ED" if float(str(row["lv_ml"])) == largest else "ES"
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(next(iter(rows.values()))))
        writer.writeheader()
        writer.writerows(rows.values())
    print(f"{out}: {len(rows)} frames of {len({r['patient'] for r in rows.values()})} patients")


if __name__ == "__main__":
    main()
