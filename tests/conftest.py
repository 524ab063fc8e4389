"""Fixtures: small synthetic datasets in nnU-Net's layout, and real data where there are any."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("nnUNet_compile", "f")
os.environ.setdefault("nnUNet_n_proc_DA", "1")
os.environ.setdefault("nnUNet_def_n_proc", "2")

import numpy as np
import pytest
import SimpleITK as sitk
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
UNET_3D = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [8, 16, 24],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_blocks_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    """The networks are tiny: threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def unet_3d() -> dict:
    """An anisotropic residual U-Net's `architecture` block: total stride 2, 4, 4."""
    return json.loads(json.dumps(UNET_3D))


def blobs(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A textured image with a bright and a dark ball, and their labels 1 and 2."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    image = 100 + 10 * rng.standard_normal(shape)
    label = np.zeros(shape, np.uint8)
    for value, offset in ((1, 60), (2, -60)):
        centre = [rng.uniform(0.3 * n, 0.7 * n) for n in shape]
        ball = ((grid - centre) ** 2).sum(-1) < (0.2 * min(shape)) ** 2
        label[ball] = value
        image[ball] += offset
    return image.astype(np.float32), label


def write_image(array: np.ndarray, path: Path, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> None:
    """Write (Z, Y, X) with a spacing given in the same order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in spacing[::-1]])
    sitk.WriteImage(image, str(path))


def make_raw(
    raw: Path, name: str, cases: int, labelled: int, spacing: tuple[float, ...] = (1.0, 1.0, 1.0), seed: int = 0
) -> Path:
    """A raw dataset `name` of which the first `labelled` cases have labels."""
    rng = np.random.default_rng(seed)
    folder = raw / name
    for i in range(cases):
        shape = tuple(int(n) for n in rng.integers((18, 22, 20), (24, 28, 26)))
        image, label = blobs(rng, shape)
        write_image(image, folder / "imagesTr" / f"case_{i:03d}_0000.nii.gz", spacing)
        if i < labelled:
            write_image(label, folder / "labelsTr" / f"case_{i:03d}.nii.gz", spacing)
    labels = {"background": 0, "bright": 1, "dark": 2} if labelled else {"background": 0}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": cases}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def nnunet_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty nnUNet_raw, nnUNet_preprocessed and nnUNet_results below a temporary folder."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setenv("nnUNet_extTrainer", str(REPOSITORY / "nnssl" / "nnunet_plugin"))
    return tmp_path


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset 901 (6 labelled cases) planned with size S, dataset 902 (5 unlabelled, 1 broken) planned like it."""
    root = tmp_path_factory.mktemp("planned")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            (root / name).mkdir()
            patch.setenv(f"nnUNet_{name}", str(root / name))
        make_raw(root / "raw", "Dataset901_Target", 6, 6)
        pool = make_raw(root / "raw", "Dataset902_Pool", 5, 0, seed=1)
        (pool / "imagesTr" / "broken_0000.nii.gz").write_bytes(b"not an image")
        run_command("plan_and_preprocess", "-d", "901", "--size", "S", "-np", "2")
        run_command("plan_and_preprocess", "-d", "902", "--like", "901", "-np", "2", "-c", "3d_fullres", "2d")
    return root


@pytest.fixture
def pretraining(planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The planned datasets with a results folder of the test's own."""
    monkeypatch.setenv("nnUNet_raw", str(planned / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(planned / "preprocessed"))
    (tmp_path / "results").mkdir(exist_ok=True)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_extTrainer", str(REPOSITORY / "nnssl" / "nnunet_plugin"))
    return planned


def run_command(command: str, *arguments: str) -> int:
    """Run a command's `main` in this process with the given arguments; returns its exit code."""
    import importlib
    import sys

    module = importlib.import_module(f"nnssl.cli.{command}")
    before = sys.argv
    sys.argv = [f"nnssl_{command}", *arguments]
    try:
        module.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    finally:
        sys.argv = before
    return 0


def run_folder(results: Path, name: str = "nnsslTrainer_MaskedRegion", fold: str = "all") -> Path:
    """Run folder of dataset 902."""
    return results / "Dataset902_Pool" / f"{name}__nnsslPlans__3d_fullres" / f"fold_{fold}"


def find_real_data(name: str) -> Path | None:
    """A folder of the real test data, in NNSSL_TEST_DATA or ../shared/data."""
    for root in (os.environ.get("NNSSL_TEST_DATA"), REPOSITORY.parent / "shared" / "data"):
        if root and (Path(root) / name).exists():
            return Path(root) / name
    return None


def real_data(name: str) -> Path:
    """As `find_real_data`; skips the test with a reason where there is none."""
    found = find_real_data(name)
    if found is None:
        pytest.skip(f"no real data: {name} is neither in ../shared/data nor in NNSSL_TEST_DATA")
    return found
