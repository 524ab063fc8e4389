"""Names of Hugging Face repositories, against a cache laid out as the hub's own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nnssl.errors import MissingError, NnsslError
from nnssl.transfer.readers.hub import is_hub_name
from nnssl.transfer.reading import read_weights
from tests.transfer.foreign_files import adaptation_plan, openmind, trained_unet

hub = pytest.importorskip("huggingface_hub")
REVISION = "0123456789abcdef0123456789abcdef01234567"


def cache(root: Path, repository: str, files: dict[str, dict]) -> None:
    """models--owner--name with refs/main, blobs and a snapshot of links to them."""
    folder = root / f"models--{repository.replace('/', '--')}"
    for part in ("refs", "blobs", f"snapshots/{REVISION}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text(REVISION)
    for i, (name, content) in enumerate(files.items()):
        torch.save(content, folder / "blobs" / f"{i:064x}")
        link = folder / "snapshots" / REVISION / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(folder / "blobs" / f"{i:064x}", link.parent))


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


@pytest.fixture
def model(unet_3d: dict) -> dict:
    return openmind(trained_unet(unet_3d).state_dict(), adaptation_plan(unet_3d))


def test_the_only_file_of_a_repository(cached: Path, model: dict) -> None:
    cache(cached, "Some-One/ResEncL-OpenMind-MAE", {"model_v1.pth": model, "config.json": {}})
    weights = read_weights("Some-One/ResEncL-OpenMind-MAE")
    key = "encoder.stem.convs.0.conv.weight"
    assert torch.equal(weights.tensors[key], model["network_weights"][key])


@pytest.mark.parametrize("joint", ["/", ":"])
def test_a_named_file_and_the_usual_one(cached: Path, model: dict, unet_3d: dict, joint: str) -> None:
    other = openmind(trained_unet(unet_3d, seed=9).state_dict(), adaptation_plan(unet_3d))
    cache(cached, "o/m", {"fold_all/checkpoint_final.pth": model, "fold_0/checkpoint_final.pth": other})
    key = "encoder.stem.convs.0.conv.weight"
    assert torch.equal(read_weights("o/m").tensors[key], model["network_weights"][key])
    named = read_weights(f"o/m{joint}fold_0/checkpoint_final.pth")
    assert torch.equal(named.tensors[key], other["network_weights"][key])


def test_several_files_are_listed_to_choose_from(cached: Path, model: dict) -> None:
    cache(cached, "o/m", {"a.pth": model, "b.safetensors": model})
    with pytest.raises(NnsslError, match=r"name one, o/m:FILE \(a\.pth, b\.safetensors\)"):
        read_weights("o/m")


@pytest.mark.parametrize("source", ["o/absent", "o/absent:a.pth"])
def test_nothing_cached_and_no_network_is_one_clear_line(cached: Path, source: str) -> None:
    with pytest.raises(NnsslError, match=r"is no file here, not in the cache.*HF_HUB_OFFLINE is set.*or give a file"):
        read_weights(source)


def test_a_file_here_comes_before_a_repository_of_that_name(cached: Path, model: dict, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    torch.save(model, tmp_path / "o" / "m")
    assert read_weights("o/m").stages == 3


def test_a_mistyped_path_is_not_sent_to_the_hub(cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "patients").mkdir()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # looking it up would end in another error
    with pytest.raises(MissingError, match="patients/smith does not exist"):
        read_weights("patients/smith")


def test_without_huggingface_hub_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(NnsslError, match="pip install huggingface_hub"):
        read_weights("o/m")


def test_names_of_files_are_not_taken_for_repositories() -> None:
    assert is_hub_name("AnonRes/ResEncL-OpenMind-MAE")
    assert is_hub_name("AnonRes/ResEncL-OpenMind-MAE:fold_all/checkpoint_final.pth")
    for name in ("encoder.pth", "runs/encoder.pth", "./o/m", "/o/m", "../o/m", "o/m:", "a b/c"):
        assert not is_hub_name(name), name


def test_the_users_environment_is_honoured(model: dict, tmp_path: Path) -> None:
    """As a user does it: HF_HOME and HF_HUB_OFFLINE of the shell."""
    cache(tmp_path / "home" / "hub", "o/m", {"checkpoint.pth": model})
    code = "from nnssl.transfer.reading import read_weights; print(read_weights('o/m').kind)"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "MIC-DKFZ/nnssl (ResidualEncoderUNet)" in done.stdout, done.stderr


def test_no_network_is_said_at_once(tmp_path: Path) -> None:
    """The hub's own library tries again and again for half a minute."""
    with socket.socket() as free:  # a port where nobody listens, once it is closed
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = (
        "import time\nfrom nnssl.transfer.reading import read_weights\nimport huggingface_hub\nbegan = time.monotonic()\n"
        "try:\n    read_weights('some-one/some-thing')\nexcept Exception as e:\n    print(time.monotonic() - began, e)"
    )
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    seconds, _, said = done.stdout.partition(" ")
    assert float(seconds) < 6
    assert "some-one/some-thing is no file here" in said
    assert "cannot be fetched" in said
