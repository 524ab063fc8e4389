"""Files of weights of every layout that nnssl reads, run checkpoints and classifiers: their values, and their bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnssl.evaluate.classify.model import read_model
from nnssl.networks import build_unet
from nnssl.transfer import Target as Wanted
from nnssl.transfer import complete_network, torch_files
from nnssl.transfer.encoder_file import pack_encoder, write_encoder
from nnssl.transfer.reading import read_weights
from nnssl.transfer.verify import verify_file
from tests.conftest import UNET_3D
from tests.fuzz.harness import Target
from tests.fuzz.images import PLANS
from tests.fuzz.mutate import Mutation, Rng, damage_bytes, damage_value, pick
from tests.transfer.foreign_files import adaptation_plan, nnunet_checkpoint, trained_primus, trained_unet

SMALL = {**UNET_3D, "arch_kwargs": {**UNET_3D["arch_kwargs"], "features_per_stage": [2, 3, 4]}}


def damage_content(content: bytes, rng: Rng) -> bytes:
    """Damage the values in a torch file and write it as torch does."""
    import io

    value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    for _ in range(int(rng.integers(1, 3))):
        value = damage_value(value, rng)
    changed = io.BytesIO()
    torch.save(value, changed, _use_new_zipfile_serialization=bool(rng.random() < 0.8))
    return changed.getvalue()


def damage_both(content: bytes, rng: Rng) -> bytes:
    """Values mostly, bytes now and then."""
    return pick(rng, (damage_content, damage_content, damage_bytes))(content, rng)


def ours() -> Any:
    """An encoder file's content."""
    network = build_unet(SMALL, 1, 1)
    configuration = {**PLANS["configurations"]["3d_fullres"], "architecture": SMALL}
    provenance = {"method": "spark", "config": {"epochs": 3}, "seed": 0, "steps": 9, "cases": 4, "case_digests": ["ab"]}
    return pack_encoder(
        network.encoder, network.decoder, plans=PLANS, configuration_name="3d_fullres", configuration=configuration,
        channels=1, provenance=provenance, citations=["a paper"],
    )  # fmt: skip


def write_ours(name: str) -> Callable[[Path], None]:
    return lambda folder: write_encoder(ours(), folder / name)


def save(content: Callable[[], Any]) -> Callable[[Path], None]:
    return lambda folder: torch.save(content(), folder / "w.pth")


def openmind() -> Any:
    weights = build_unet(SMALL, 1, 1).state_dict()
    return {"network_weights": dict(weights), "nnssl_adaptation_plan": adaptation_plan(SMALL)}


def plain() -> Any:
    return {"state_dict": {f"module.{k}": v for k, v in trained_unet(SMALL).state_dict().items()}, "epoch": 3}


def primus() -> Any:
    plan = adaptation_plan("PrimusS", key_to_encoder="eva", key_to_stem="down_projection")
    plan |= {"keys_to_in_proj": ["down_projection.proj"], "key_to_lpe": "eva.pos_embed"}
    plan["pretrain_plan"]["configurations"]["onemmiso"]["patch_size"] = [16, 16, 24]
    plan["recommended_downstream_patchsize"] = [16, 16, 24]
    return {"network_weights": dict(trained_primus().state_dict()), "nnssl_adaptation_plan": plan}


def read(name: str) -> Callable[[Path], None]:
    """As --init, nnssl_export and nnssl_inspect --verify do."""

    def reading(folder: Path) -> None:
        found = read_weights(folder / name)
        complete_network(found, Wanted(SMALL, 1), "fresh", 0)
        verify_file(folder / name)

    return reading


def checkpoint(folder: Path) -> None:
    """What a run saves, on a tiny method."""
    optimizer_state = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    content = {
        "nnssl_checkpoint": 1, "config": {"method": "spark"}, "epoch": 1, "step": 2, "sums": {"loss": torch.zeros(())},
        "history": [{"epoch": 0, "train_loss": np.float64(1).item()}], "method_state": {"a": torch.zeros(3)},
        "optimizer_state": optimizer_state, "scaler_state": None, "pool_signature": "ab",
    }  # fmt: skip
    torch_files.save(content, folder / "w.pth")


def read_checkpoint(folder: Path) -> None:
    """As `--c` does, as far as the run's own network is not needed."""
    from nnssl.trainers.checkpoint import check_format

    check_format(torch_files.load(folder / "w.pth"), str(folder / "w.pth"))


def classifier(folder: Path) -> None:
    from tests.keeping.write_samples import write_classifier

    write_classifier(folder / "model.pth")


def weight_targets() -> list[Target]:
    """One for each layout."""
    both: Mutation = damage_both
    return [
        Target("encoder", write_ours("w.pth"), "w.pth", both, read("w.pth")),
        Target(
            "encoder-safetensors", write_ours("w.safetensors"), "w.safetensors", damage_bytes, read("w.safetensors")
        ),
        Target("openmind", save(openmind), "w.pth", both, read("w.pth")),
        Target("nnunet", save(lambda: nnunet_checkpoint(trained_unet(SMALL), SMALL)), "w.pth", both, read("w.pth")),
        Target("state-dict", save(plain), "w.pth", both, read("w.pth")),
        Target("primus", save(primus), "w.pth", both, lambda folder: read_weights(folder / "w.pth")),
        Target("classifier", classifier, "model.pth", both, lambda folder: read_model(folder / "model.pth")),
        Target("checkpoint", checkpoint, "w.pth", both, read_checkpoint),
    ]
