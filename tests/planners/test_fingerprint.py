from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnssl.planners import extract_fingerprint, plan_like
from nnssl.planners.measure import nonzero_box
from nnssl.planners.preprocess import nearest, nnsslPreprocessor

from nnssl.data.store import open_case
from tests.conftest import make_raw, run_command, write_image


def test_what_is_measured_of_a_case_is_what_was_written(nnunet_folders: Path) -> None:
    raw = nnunet_folders / "raw" / "Dataset900_CT"
    rng = np.random.default_rng(0)
    for i in range(2):
        image = np.full((20, 40, 44), -1000, np.int16)
        image[:, 10:30, 12:32] = 40 + rng.integers(-5, 6, (20, 20, 20))
        write_image(image, raw / "imagesTr" / f"a{i}_0000.nii.gz", (3.0, 2.0, 2.0))
    (raw / "dataset.json").write_text('{"channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}')
    found = extract_fingerprint("Dataset900_CT", 1)["nnssl"]
    facts = found["measured"]["a0"]
    assert facts["shape"] == [20, 40, 44]
    assert facts["spacing"] == [3.0, 2.0, 2.0]
    assert (facts["dtype"], facts["orientation"]) == ("int16", "LPS")
    assert facts["foreground_share"] == pytest.approx(400 / 1760, rel=0.15)
    assert facts["intensity"][0]["median"] == pytest.approx(40, abs=1)
    histogram = found["ct_histogram"]["0"]
    counts = np.array(histogram["counts"])
    centres = histogram["low"] + histogram["step"] * (np.arange(len(counts)) + 0.5)
    assert abs((counts * centres).sum() / counts.sum() - 40) < 15, "air outside the body must not count"
    assert not (nnunet_folders / "preprocessed" / "Dataset900_CT" / "nnssl_fingerprint_pieces").exists()


@pytest.mark.parametrize("seed", range(5))
def test_the_box_is_nnunets(seed: int) -> None:
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    rng = np.random.default_rng(seed)
    data = np.zeros((2, 14, 15, 16), np.float32)
    low = rng.integers(0, 6, 3)
    data[int(rng.integers(2)), low[0] : 12, low[1] : 11, low[2] : 13] = rng.integers(0, 2, (12, 11, 13))[
        low[0] :, low[1] :, low[2] :
    ]
    _, _, expected = crop_to_nonzero(data, None)
    assert [[b.start, b.stop] for b in nonzero_box(data)] == [list(map(int, b)) for b in expected]


def test_an_unlabelled_case_is_preprocessed_to_nnunets_voxels(nnunet_folders: Path, planned: Path) -> None:
    """The shortcut for what nnU-Net takes for a label must not touch the image."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnssl.data.folders import RawCase

    raw = make_raw(nnunet_folders / "raw", "Dataset900_X", 1, 0, spacing=(2.6, 0.8, 1.1))
    image = str(raw / "imagesTr" / "case_000_0000.nii.gz")
    plans = PlansManager(json.loads((planned / "preprocessed" / "Dataset902_Pool" / "nnsslPlans.json").read_text()))
    configuration = plans.get_configuration("3d_fullres")
    content = json.loads((raw / "dataset.json").read_text())
    expected, seg, _ = DefaultPreprocessor(False).run_case([image], None, plans, configuration, content)
    target = nnunet_folders / "out" / "case_000"
    target.parent.mkdir()
    nnsslPreprocessor().run_and_save(RawCase("case_000", (image,), None), target, plans, configuration, content)
    stored = open_case(target.with_name("case_000.b2nd"))[...]
    assert np.array_equal(stored, expected.astype(np.float16))
    assert open_case(target.with_name("case_000_seg.b2nd"))[...].shape == seg.shape


def test_nearest_takes_the_voxel_in_the_middle() -> None:
    seg = np.array([0, 0, -1, -1], np.int8).reshape(1, 4, 1, 1)
    assert nearest(seg, (2, 1, 1)).ravel().tolist() == [0, -1]
    assert nearest(seg, (8, 2, 1))[0, :, 0, 0].tolist() == [0, 0, 0, 0, -1, -1, -1, -1]


def test_another_orientation_than_the_targets_is_a_warning_that_names_both(
    pretraining: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raw = tmp_path / "raw"
    make_raw(raw, "Dataset904_Turned", 3, 0)
    for path in (raw / "Dataset904_Turned" / "imagesTr").iterdir():
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS"), str(path))
    monkeypatch.setenv("nnUNet_raw", str(raw))
    try:
        extract_fingerprint("Dataset904_Turned", 1)
        with caplog.at_level(logging.WARNING):
            plan_like("Dataset904_Turned", 901, "nnsslPlans", "nnsslPlans", "S")
        text = " ".join(r.getMessage() for r in caplog.records)
        assert "RAS (3 cases)" in text
        assert "LPS (6 cases)" in text
        assert "--orientation LPS" in text
    finally:
        import shutil

        shutil.rmtree(pretraining / "preprocessed" / "Dataset904_Turned", ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "channels"), [(".png", 1), (".tif", 1), (".nii.gz", 2)])
def test_pictures_and_several_channels_are_planned_and_stored(nnunet_folders: Path, ending: str, channels: int) -> None:
    from PIL import Image

    raw = nnunet_folders / "raw" / "Dataset900_X"
    (raw / "imagesTr").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(3):
        for c in range(channels):
            path = raw / "imagesTr" / f"case_{i}_{c:04d}{ending}"
            if ending == ".nii.gz":
                write_image(rng.normal(100, 20, (20, 30 + i, 28)).astype(np.float32), path, (1.0 + i, 1.0, 1.0))
            else:
                Image.fromarray(rng.integers(0, 255, (60 + i, 64), dtype=np.uint8)).save(path)
    names = json.dumps({str(c): f"channel {c}" for c in range(channels)})
    (raw / "dataset.json").write_text(f'{{"channel_names": {names}, "file_ending": "{ending}"}}')
    assert run_command("plan_and_preprocess", "-d", "900", "--size", "S", "-np", "1") == 0
    folder = nnunet_folders / "preprocessed" / "Dataset900_X"
    plans = json.loads((folder / "nnsslPlans.json").read_text())
    assert ("3d_fullres" in plans["configurations"]) == (ending == ".nii.gz")
    stored = open_case(folder / "nnsslPlans_2d" / "case_0.b2nd")[...]
    assert stored.shape[0] == channels
    assert abs(float(stored.astype(np.float32).mean())) < 0.05, "z-scored"
