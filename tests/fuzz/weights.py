"""Files of weights of every layout that nnssl reads, run checkpoints and classifiers: their values, and their bytes."""

from __future__ import annotations

import copy
import io
import json
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnssl.trainers.checkpoint import RunState, check_format, pack, restore
from nnssl.trainers.optimisers import make_optimizer, parameter_groups
from nnssl.trainers.run_config import make_run_config

from nnssl.data.pool import Pool, PoolCase
from nnssl.errors import NnsslError
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

VALUES = (
    b"h\x00", b"h\x01", b"h\x05", b"h\x20", b"N", b"]", b"K\xff", b"\x8a\x08" + b"\x7f" * 8, b"](" + b"h\x01" * 5000 + b"e",
    b"X\x02\x00\x00\x00ab", b"X\xff\xff\xff\x7f",
)  # fmt: skip
CALLS = (
    b"c_codecs\nencode\nVALUEX\x09\x00\x00\x00hex_codec\x86R", b"c_codecs\nencode\nVALUEX\x06\x00\x00\x00latin1\x86R",
    b"ccollections\nOrderedDict\nVALUE\x85R", b"cnumpy\ndtype\nVALUE\x85R", b"cnumpy\ndtype\nVALUE\x85\x81",
    b"cnumpy.core.multiarray\nscalar\nVALUE\x85R", b"](VALUEh\x01e", b"c__builtin__\nset\nVALUE\x85R", b"VALUE\x85",
)  # fmt: skip
"""Of a pickle: values that take the place of others, and what torch lets through around them."""
HOSTILE_JSON = (
    "[" * 10**5, "9" * 5000, '{"a": 1, "a": 2}', "NaN", "", "[" * 300 + "]" * 300, '{"a": ["x"]}', "null", '{"a": "b"}',
)  # fmt: skip
SMALL = {**UNET_3D, "arch_kwargs": {**UNET_3D["arch_kwargs"], "features_per_stage": [2, 3, 4]}}


def damage_content(content: bytes, rng: Rng) -> bytes:
    """Damage the values in a torch file and write it as torch does."""
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


def run() -> tuple[Any, Any, Any, Pool]:
    """A tiny method in the middle of a run: after a step of its optimiser, with a scaler."""
    from tests.keeping.write_samples import method

    model, pool = method(), Pool(Path(), (PoolCase("a", "f", (8, 10, 9), False),))
    optimizer = make_optimizer("adamw", parameter_groups(model.named_parameters(), 0.01), 1e-3)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))  # it has no state before
    _step(model, optimizer)
    return model, optimizer, scaler, pool


def _step(model: Any, optimizer: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def checkpoint(folder: Path) -> None:
    """What a run saves."""
    model, optimizer, scaler, pool = run()
    state = RunState(1, 2, {"loss": torch.tensor(0.5)}, [{"epoch": 0, "train_loss": np.float64(1).item()}])
    state.trouble.record(5, torch.tensor(True), torch.tensor(2.0), {"loss": torch.tensor(torch.nan)})
    config = make_run_config("denoising", {}, None, []).model_dump()
    torch_files.save(pack(state, config, model, optimizer, scaler, pool), folder / "w.pth")


def read_checkpoint(folder: Path) -> None:
    """As `--c` does: all of it or nothing, and what was taken can be gone on with."""
    content = torch_files.load(folder / "w.pth")
    check_format(content, str(folder / "w.pth"))
    model, optimizer, scaler, pool = run()
    parts = (model, optimizer, scaler)
    before = copy.deepcopy([part.state_dict() for part in parts])
    try:
        state = restore(content, *parts, pool, torch.device("cpu"))
    except NnsslError:
        torch.testing.assert_close([part.state_dict() for part in parts], before, equal_nan=True)
        raise
    _step(model, optimizer)
    scaler.update(2.0)
    done = state.epoch * 250 + state.step
    state.trouble.record(done, torch.tensor(False), torch.tensor(1.0), {"loss": torch.tensor(1.0)})
    state.trouble.look()
    state.trouble.diagnosis(done + 1)
    optimizer.param_groups[0]["lr"] *= state.rate ** (1 + state.rollbacks)
    torch_files.save(pack(state, content["config"], model, optimizer, scaler, pool), folder / "w.pth")


def damage_pickle(content: bytes, rng: Rng) -> bytes:
    """Put other values, calls and references into the pickle of a torch file, with the checksum that belongs to it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(n for n in entries if n.endswith("data.pkl"))
    data = entries[name]
    for _ in range(int(rng.integers(1, 3))):
        try:
            places = [at or 0 for _, _, at in pickletools.genops(data)]
        except ValueError:  # what was put in before
            break
        kind = pick(rng, (b"X", b"X", b"N", b"K", b")"))
        i = pick(rng, [i for i, at in enumerate(places) if data[at : at + 1] == kind] or [2])
        value = pick(rng, VALUES)
        for _ in range(int(pick(rng, (0, 0, 1, 3, 30)))):
            value = pick(rng, CALLS).replace(b"VALUE", value)
        data = data[: places[i]] + value + data[places[i + 1] :]
    entries[name] = damage_bytes(data, rng) if rng.random() < 0.2 else data
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for entry, part in entries.items():
            archive.writestr(entry, part)
    return changed.getvalue()


def damage_metadata(content: bytes, rng: Rng) -> bytes:
    """Damage one of the texts in a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    texts = header["__metadata__"]
    key = pick(rng, [k for k in texts if k != "format"])
    texts[key] = (
        pick(rng, HOSTILE_JSON) if rng.random() < 0.4 else json.dumps(damage_value(json.loads(texts[key]), rng))
    )
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


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
        Target("encoder-pickle", write_ours("w.pth"), "w.pth", damage_pickle, read("w.pth")),
        Target(
            "encoder-metadata", write_ours("w.safetensors"), "w.safetensors", damage_metadata, read("w.safetensors")
        ),
        Target("openmind", save(openmind), "w.pth", both, read("w.pth")),
        Target("nnunet", save(lambda: nnunet_checkpoint(trained_unet(SMALL), SMALL)), "w.pth", both, read("w.pth")),
        Target("state-dict", save(plain), "w.pth", both, read("w.pth")),
        Target("primus", save(primus), "w.pth", both, lambda folder: read_weights(folder / "w.pth")),
        Target("classifier", classifier, "model.pth", both, lambda folder: read_model(folder / "model.pth")),
        Target("checkpoint", checkpoint, "w.pth", both, read_checkpoint),
    ]
