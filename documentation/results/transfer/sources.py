"""Files of weights of the transfer matrix, one per format: trained here for a few steps, or laid out as others do."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch

from nnssl.networks import build_unet
from nnssl.transfer import read_encoder, write_encoder
from tests.transfer.foreign_files import adaptation_plan, openmind, spark, trained_primus

QUICK = "--epochs 1 --iterations 3 --set val_iterations=1 --set workers=0 -device cpu"
RESENC_L = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "arch_kwargs": {
        "n_stages": 6, "features_per_stage": [32, 64, 128, 256, 320, 320], "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 6, "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5, "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
        "n_conv_per_stage_decoder": [1] * 5, "conv_bias": True, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}  # fmt: skip
REVISION = "0123456789abcdef0123456789abcdef01234567"


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def _pretrained(results: Path, dataset: int, configuration: str, plans: str, method: str) -> Path:
    """`encoder.pth` of a run of a few steps."""

    def found() -> list[Path]:
        pattern = f"Dataset{dataset}_*/nnsslTrainer_*_matrix__{plans}__{configuration}/fold_all/encoder.pth"
        return list(results.glob(pattern))

    if not found():
        _run(f"nnssl_pretrain {dataset} {configuration} -p {plans} -m {method} --name matrix --overwrite {QUICK}")
    return found()[0]


def _network(architecture: dict[str, Any], channels: int = 1) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_unet(architecture, channels, 2)


def _save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def _openmind(folder: Path, stale: bool) -> Path:
    network = _network(RESENC_L)
    weights = spark(network) if stale else network.state_dict()
    content = openmind(weights, adaptation_plan(RESENC_L))
    return _save(content, folder / f"openmind{'_spark' if stale else ''}.pth")


def _checkpoint(results: Path) -> Path:
    """A supervised nnU-Net of a few steps."""
    model = "Dataset953_Hippocampus/nnUNetTrainer_SSLScratch__supervisedPlans__3d_fullres/fold_0/checkpoint_final.pth"
    if not (results / model).is_file():
        plan = (
            "nnssl_plan_finetune -d 953 -c 3d_fullres --schedule scratch --epochs 1 --iterations 3 --val-iterations 1"
        )
        _run(plan + " -o supervisedPlans --overwrite")
        _run("nnUNetv2_train 953 3d_fullres 0 -p supervisedPlans -tr nnUNetTrainer_SSLScratch -device cpu")
    return results / model


def _in_hub(folder: Path, file: Path) -> str:
    """A repository in a cache laid out like the hub's."""
    root = Path(os.environ["HF_HUB_CACHE"]) / "models--some-one--encoder"
    snapshot = root / "snapshots" / REVISION
    snapshot.mkdir(parents=True, exist_ok=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(REVISION)
    link = snapshot / "encoder.pth"
    if not link.exists():
        link.symlink_to(file)
    return "some-one/encoder"


def make_sources(folder: Path, preprocessed: Path, results: Path) -> dict[str, str]:
    """Row -> file or name; what is there is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    hippocampus = _pretrained(results, 953, "3d_fullres", "nnsslPlans", "spark")
    plain = folder / "prefixed.pth"
    if not plain.is_file():
        tensors = read_encoder(hippocampus).network_weights
        _save({"state_dict": {f"student.backbone.{k}": v for k, v in tensors.items()}}, plain)
    safe = folder / "encoder.safetensors"
    if not safe.is_file():
        write_encoder(read_encoder(hippocampus), safe)
    torch.manual_seed(0)
    resnet = timm.create_model("resnet18", num_classes=1000)
    made: dict[str, Callable[[], Path | str]] = {
        "nnssl, 3D residual (spark)": lambda: hippocampus,
        "the same as safetensors": lambda: safe,
        "the same, nnunet_init.pth": lambda: hippocampus.with_name("nnunet_init.pth"),
        "the same, plain dict with a prefix": lambda: plain,
        "the same, repository of the hub": lambda: _in_hub(folder, hippocampus),
        "nnssl, 2D residual (byol)": lambda: _pretrained(results, 951, "2d", "nnsslPlans", "byol"),
        "nnssl, 3D plain (masked_region)": lambda: _pretrained(
            results, 953, "3d_fullres", "nnUNetPlans", "masked_region"
        ),
        "nnssl, timm resnet18 (spark)": lambda: _pretrained(results, 951, "2d", "timmPlans", "spark"),
        "MIC-DKFZ/nnssl, ResEnc-L (MAE)": lambda: _openmind(folder, stale=False),
        "MIC-DKFZ/nnssl, ResEnc-L (SparK)": lambda: _openmind(folder, stale=True),
        "nnU-Net, supervised": lambda: _checkpoint(results),
        "timm resnet18 classifier": lambda: _save(resnet.state_dict(), folder / "resnet18.pth"),
        "SparK 2D, resnet18": lambda: _save(
            {"module": {f"sparse_encoder.sp_cnn.{k}": v for k, v in resnet.state_dict().items() if "fc." not in k}},
            folder / "spark2d.pth",
        ),
        "Primus": lambda: _save({"state_dict": trained_primus((16, 16, 16)).state_dict()}, folder / "primus.pth"),
    }
    return {name: str(make()) for name, make in made.items()}


def described(file: Path) -> Any:
    """A JSON file's content."""
    return json.loads(file.read_text())
