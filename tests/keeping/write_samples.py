"""Writes a small sample of every file that nnssl writes: `python -m tests.keeping.write_samples FOLDER`.

The samples in `samples/` were written by the version that their folder names, and stay as they are: `test_samples.py` reads
them with the code of today. Whoever changes a format raises its number, writes the new form into a new folder with this
script, and leaves the old one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnssl.trainers.checkpoint import RunState, pack
from nnssl.trainers.run_config import make_run_config

from nnssl.data.checksums import checksum_of
from nnssl.data.pool import Pool, PoolCase, write_pool
from nnssl.data.store import save_case
from nnssl.evaluate.classify.model import Model, write_model
from nnssl.evaluate.classify.network import Classifier
from nnssl.evaluate.classify.recipe import Recipe
from nnssl.evaluate.classify.settings import TrainingSettings
from nnssl.evaluate.embedding import Embedding, write_embedding
from nnssl.evaluate.study.spec import StudyConfig, write_study
from nnssl.files import write_json
from nnssl.methods import get_method
from nnssl.networks import build_unet
from nnssl.transfer import Target, torch_files
from nnssl.transfer.encoder_file import EncoderFile, pack_encoder, weights_of, write_encoder
from nnssl.transfer.nnunet_init import write_nnunet_init
from nnssl.views import Geometry
from tests.conftest import UNET_3D
from tests.fuzz.images import DESCRIPTION, PLANS
from tests.fuzz.tables import CASES, FINGERPRINT, STUDY

TINY: dict[str, Any] = {
    **UNET_3D,
    "arch_kwargs": {
        **UNET_3D["arch_kwargs"], "n_stages": 2, "features_per_stage": [2, 3], "kernel_sizes": [[3, 3, 3]] * 2,
        "strides": [[1, 1, 1], [2, 2, 2]], "n_blocks_per_stage": [1, 1], "n_conv_per_stage_decoder": [1],
    },
}  # fmt: skip
CONFIGURATION = {**PLANS["configurations"]["3d_fullres"], "architecture": TINY}
TINY_PLANS = {**PLANS, "configurations": {"3d_fullres": CONFIGURATION}}
GEOMETRY = Geometry((8, 16, 16), (1.0, 1.0, 1.0))


def encoder() -> EncoderFile:
    """An encoder whose weights follow from a seed."""
    torch.manual_seed(0)
    network = build_unet(TINY, 1, 1)
    return pack_encoder(
        network.encoder, network.decoder, plans=TINY_PLANS, configuration_name="3d_fullres",
        configuration=CONFIGURATION, channels=1, citations=["a paper"],
        provenance={"method": "spark", "config": {}, "seed": 0, "steps": 9, "cases": 4, "case_digests": ["ab"]},
    )  # fmt: skip


def method(name: str = "denoising") -> torch.nn.Module:
    """One of the smallest methods."""
    torch.manual_seed(0)
    cls = get_method(name)
    return cls(build_unet(TINY, 1, 1), GEOMETRY, 1, cls.Config())


def write_checkpoint(path: Path, pool: Pool) -> None:
    model = method()
    state = RunState(1, 2, {"loss": torch.tensor(0.5)}, [{"epoch": 0, "train_loss": 1.0}])
    config = make_run_config("denoising", {}, None, []).model_dump()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch_files.save(pack(state, config, model, optimizer, None, pool), path)


def write_pool_files(folder: Path) -> Pool:
    """A preprocessed case and the index of its pool."""
    target = folder / "nnsslPlans_3d_fullres" / CASES[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    data = np.linspace(-1, 1, 8 * 10 * 9, dtype=np.float32).reshape(1, 8, 10, 9)
    save_case(
        target,
        data,
        np.zeros(data.shape, np.int8),
        np.full((2, 3), 3, np.int32),
        {"spacing": [1, 1, 1]},
        [8, 8, 8],
        True,
    )
    case = PoolCase(CASES[0], target.parent.name, (8, 10, 9), False, "ab", 2, "p0", checksum=checksum_of(target))
    pool = Pool(folder, (case,), "ef56")
    write_pool(pool, "nnsslPlans_3d_fullres")
    return pool


def write_classifier(path: Path) -> None:
    torch.manual_seed(0)
    recipe = Recipe(TINY_PLANS, "3d_fullres", DESCRIPTION, (8, 16, 16), 1, False)
    network = Classifier(build_unet(TINY, 1, 1).encoder, [1], "avg", 2)
    settings = TrainingSettings(pooling="avg")
    write_model(
        Model(recipe, settings, "classes", "grade", np.array(["a", "b"]), network, None, {"method": "spark"}), path
    )


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pool = write_pool_files(folder)
    content = encoder()
    write_encoder(content, folder / "encoder.pth")
    write_encoder(content, folder / "encoder.safetensors")
    write_nnunet_init(weights_of(content), folder / "nnunet_init.pth", target=Target(TINY, 1), decoder="fresh", seed=0)
    write_checkpoint(folder / "checkpoint_latest.pth", pool)
    write_classifier(folder / "model.pth")
    write_json(FINGERPRINT, folder / "dataset_fingerprint.json")
    write_json(TINY_PLANS, folder / "nnsslPlans.json")
    write_json([{"train": CASES[:4], "val": CASES[4:]}], folder / "splits_final.json")
    study = StudyConfig(**STUDY)  # type: ignore[arg-type]
    write_study(study, folder / "study.yaml")
    write_json({"format": 1, "study": study.model_dump(), "inits": {}, "started": "2026-01-01"}, folder / "study.json")
    write_json({"format": 1, "config": make_run_config("spark", {}, None, []).model_dump()}, folder / "config.json")
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    about = json.loads(json.dumps({"format": 1, "encoder": "encoder.pth"}))
    write_embedding(
        Embedding(rows, ("a", "b"), np.array([-1, -1]), ("f0", "f1", "f2", "f3"), about), folder / "embedding.npz"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
