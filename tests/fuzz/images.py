"""Raw images of every format: measuring for the fingerprint, preprocessing, import."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nnssl.planners.measure import measure_case
from nnssl.planners.preprocess import nnsslPreprocessor
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnssl.data.folders import RawCase
from nnssl.data.importing.convert import Wish, convert
from nnssl.data.importing.dicom_headers import is_dicom
from nnssl.data.importing.dicom_reading import read_piece
from nnssl.data.importing.dicom_series import series_to_items
from nnssl.data.importing.items import META, NIFTI, NRRD, Item
from nnssl.errors import NnsslError
from tests.conftest import UNET_3D, blobs
from tests.data.importing.dicom_files import volume, write_enhanced, write_series
from tests.fuzz.harness import Target
from tests.fuzz.mutate import Mutation, damage_gzip, damage_head, damage_text

SHAPE = (10, 14, 12)
PLANS = {
    "dataset_name": "Dataset900_Fuzz", "plans_name": "nnsslPlans", "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "original_median_spacing_after_transp": [1, 1, 1],
    "original_median_shape_after_transp": list(SHAPE), "experiment_planner_used": "x", "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {"0": {"mean": 100, "std": 20, "percentile_00_5": 1,
        "percentile_99_5": 200, "min": 0, "max": 300, "median": 100}},
    "configurations": {"3d_fullres": {
        "data_identifier": "nnsslPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": [8, 16, 16], "median_image_size_in_voxels": list(SHAPE), "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "architecture": UNET_3D, "batch_dice": False}},
}  # fmt: skip
DESCRIPTION = {"channel_names": {"0": "MRI"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}


def image(kind: type) -> np.ndarray:
    """A small image of a voxel type."""
    return blobs(np.random.default_rng(0), SHAPE)[0].astype(kind)


def write(name: str, kind: type = np.int16, compress: bool = False) -> Callable[[Path], None]:
    """Writer of one image with SimpleITK."""

    def make(folder: Path) -> None:
        picture = sitk.GetImageFromArray(image(kind))
        picture.SetSpacing((0.8, 0.9, 1.3))
        sitk.WriteImage(picture, str(folder / name), useCompression=compress)

    return make


def write_nifti2(folder: Path) -> None:
    nib.save(nib.Nifti2Image(image(np.float32).T, np.diag([1, 1, 2, 1])), folder / "a_0000.nii")


def measure(folder: Path, reader: type, name: str) -> Any:
    """As the fingerprint does."""
    case = RawCase("a", (str(folder / name),), None)
    return measure_case(case, reader=reader, channel_names=["MRI"], samples=100, named=None)


def preprocess(folder: Path, name: str) -> None:
    """As preprocessing does with a case that the fingerprint has let pass."""
    measure(folder, SimpleITKIO, name)
    plans = PlansManager(copy.deepcopy(PLANS))
    configuration = plans.get_configuration("3d_fullres")
    (folder / "out").mkdir()
    case = RawCase("a", (str(folder / name),), None)
    nnsslPreprocessor().run_and_save(case, folder / "out" / "a", plans, configuration, DESCRIPTION)


def import_file(folder: Path, name: str, kind: str) -> None:
    """As a worker of nnssl_import does."""
    (folder / "out").mkdir()
    convert((0, Item(kind, ((str(folder / name),),), name, name, "a")), wish=Wish(str(folder / "out"), ("MRI",)))


def import_dicom(folder: Path) -> None:
    """As nnssl_import does with a folder of DICOM files."""
    (folder / "out").mkdir()
    files = [p for p in sorted((folder / "series").iterdir()) if is_dicom(p)]
    headers, failures = read_piece(files)
    items, left_out = series_to_items(headers, "CT", folder)
    for i, item in enumerate(items):
        convert((i, item), wish=Wish(str(folder / "out"), ("CT",), frames=2))
    if not items:
        raise NnsslError("; ".join([r for _, r in failures] + [o.reason for o in left_out])[:300] or "no DICOM file")


def dicom_series(folder: Path) -> None:
    paths = write_series(folder / "series", volume((6, 16, 18)))
    paths[2].rename(folder / "series" / "hit")


def dicom_enhanced(folder: Path) -> None:
    (folder / "series").mkdir()
    write_enhanced(folder / "series" / "hit", volume((6, 16, 18)), 1)


def image_targets() -> list[Target]:
    """One for each format and way of reading."""
    nifti, nrrd, mha = "a_0000.nii.gz", "a_0000.nrrd", "a_0000.mha"
    head: Mutation = damage_head(352)
    return [
        Target("nifti-gz", write(nifti), nifti, damage_gzip, partial(measure, reader=SimpleITKIO, name=nifti)),
        Target("nifti-gz-nibabel", write(nifti), nifti, damage_gzip, partial(measure, reader=NibabelIO, name=nifti)),
        Target("nifti-float", write("a_0000.nii", np.float32), "a_0000.nii", head,
               partial(measure, reader=SimpleITKIO, name="a_0000.nii")),
        Target("nifti2", write_nifti2, "a_0000.nii", damage_head(540),
               partial(measure, reader=NibabelIO, name="a_0000.nii")),
        Target("nrrd", write(nrrd), nrrd, damage_text, partial(measure, reader=SimpleITKIO, name=nrrd)),
        Target("nrrd-bytes", write(nrrd, compress=True), nrrd, damage_head(300),
               partial(measure, reader=SimpleITKIO, name=nrrd)),
        Target("mha", write(mha), mha, damage_text, partial(measure, reader=SimpleITKIO, name=mha)),
        Target("mha-zlib", write(mha, np.uint8, True), mha, damage_text, partial(measure, reader=SimpleITKIO, name=mha)),
        Target("preprocess", write("a_0000.nii"), "a_0000.nii", head, partial(preprocess, name="a_0000.nii")),
        Target("import-nifti", write(nifti), nifti, damage_gzip, partial(import_file, name=nifti, kind=NIFTI)),
        Target("import-nrrd", write(nrrd), nrrd, damage_text, partial(import_file, name=nrrd, kind=NRRD)),
        Target("import-mha", write(mha), mha, damage_text, partial(import_file, name=mha, kind=META)),
        Target("dicom", dicom_series, "series/hit", damage_head(1200), import_dicom),
        Target("dicom-text", dicom_series, "series/hit", damage_text, import_dicom),
        Target("dicom-enhanced", dicom_enhanced, "series/hit", damage_head(2500), import_dicom),
    ]  # fmt: skip
