"""Files made to harm are refused before anything is run or allocated; damaged ones are one clear line."""

from __future__ import annotations

import json
import pickle
import resource
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.transfer.reading import read_weights
from nnssl.transfer.torch_scan import scan_torch_file
from tests.transfer.foreign_files import Malicious, Pickled, declare_more, nnunet_checkpoint, trained_unet


def malicious_content(kind: str) -> Any:
    nested = {"encoder.stem.weight": torch.zeros(2), "encoder.stages.0": Malicious()}
    return {
        "alone": Malicious(),
        "nested": nested,
        "deep": {"network_weights": {"a": [{"b": (Malicious(),)}]}},
        "eval": {"state_dict": Pickled(eval, "open('owned', 'w')")},
        "as a key": {Pickled(exec, "open('owned', 'w')"): 1},
    }[kind]


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("kind", ["alone", "nested", "deep", "eval", "as a key"])
def test_nothing_in_a_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    content = malicious_content(kind)
    if form == "pickle":
        (tmp_path / "m.pth").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        NnsslError, match=r"\(.*(posix\.system|builtins\.eval|builtins\.exec|__builtin__\.\w+).*refused"
    ):
        read_weights(tmp_path / "m.pth")
    assert not (tmp_path / "owned").exists()


def test_such_a_file_would_run_code_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the files above are dangerous, or the test above would prove nothing."""
    monkeypatch.chdir(tmp_path)
    torch.save(malicious_content("nested"), tmp_path / "m.pth")
    torch.load(tmp_path / "m.pth", weights_only=False)
    assert (tmp_path / "owned").exists()


def test_objects_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    torch.save({"encoder.x": torch.zeros(1), "where": Path("/home/somebody")}, tmp_path / "p.pth")
    with pytest.raises(NnsslError, match=r"pathlib.*PosixPath.*torch\.save\(model\.state_dict"):
        read_weights(tmp_path / "p.pth")
    torch.save({"encoder.x": torch.zeros(1), "log": np.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(NnsslError, match=r"multiarray\._reconstruct"):
        read_weights(tmp_path / "a.pth")


def test_numpy_numbers_are_harmless_unless_they_are_huge(unet_3d: dict, tmp_path: Path) -> None:
    checkpoint = nnunet_checkpoint(trained_unet(unet_3d), unet_3d)
    checkpoint["logging"] = [
        getattr(np, t)(1) for t in ("bool_", "float16", "float32", "float64", "int8", "int64", "uint8")
    ]
    torch.save(checkpoint, tmp_path / "n.pth")
    assert read_weights(tmp_path / "n.pth").stages == 3
    checkpoint["logging"] = [Pickled(np.dtype, "V2000000000")]
    torch.save(checkpoint, tmp_path / "v.pth")
    with pytest.raises(NnsslError, match="NumPy value of type V2000000000"):
        read_weights(tmp_path / "v.pth")


READ = """
import resource, sys
from nnssl.errors import NnsslError
from nnssl.transfer.reading import read_weights
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_weights(sys.argv[1])
except NnsslError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def refused_within(path: Path, mebibytes: int) -> str:
    """Read in a process of its own; returns the refusal, after the peak of its memory has been checked."""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 10_000, "in KiB, as this test counts"
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    *said, grown = done.stdout.strip().splitlines()
    assert said, "the file was read"
    assert int(grown) < mebibytes * 1024
    return " ".join(said)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("numel", [10**12, 10**9])
def test_a_tensor_larger_than_the_file_is_refused_without_memory(tmp_path: Path, legacy: bool, numel: int) -> None:
    declare_more(tmp_path / "huge.pth", numel, legacy)
    assert (tmp_path / "huge.pth").stat().st_size < 10_000
    said = refused_within(tmp_path / "huge.pth", 60)
    assert "declares" in said
    assert f"{numel:,}" in said or f"{4 * numel:,}" in said


def test_a_view_larger_than_its_storage_is_refused(tmp_path: Path) -> None:
    torch.save({"encoder.stem.weight": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "view.pth")
    with pytest.raises(NnsslError, match="a tensor of 1000000x1000000 values in a storage of 1"):
        read_weights(tmp_path / "view.pth")


def test_a_compressed_archive_is_refused_without_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(300 * 2**20))
    assert (tmp_path / "bomb.pth").stat().st_size < 2**20
    assert "unpack to 300.0 MiB" in refused_within(tmp_path / "bomb.pth", 60)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_asks_for_a_huge_memo_gets_none(tmp_path: Path, zipped: bool) -> None:
    """LONG_BINPUT may name any place in the memo; Python's pickle in C makes room for all the places before it."""
    content = b"\x80\x02}r" + struct.pack("<I", 2**24) + b"."  # an empty dictionary, kept as number 2^24
    path = tmp_path / "memo.pth"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    else:
        path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(NnsslError, match=r"memo\.pth"):
            read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("sizes", [[0, 4 * 10**12], [0, 16]])
def test_a_safetensors_header_that_says_more_than_the_file_holds(tmp_path: Path, sizes: list[int]) -> None:
    header = json.dumps({"encoder.x": {"dtype": "F32", "shape": [10**12], "data_offsets": sizes}}).encode()
    (tmp_path / "huge.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert "damaged or not a safetensors file" in refused_within(tmp_path / "huge.safetensors", 60)
    (tmp_path / "long.safetensors").write_bytes(struct.pack("<Q", 2**40) + header)
    with pytest.raises(NnsslError, match="damaged or not a safetensors file"):
        read_weights(tmp_path / "long.safetensors")


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_truncated_at_any_place_is_one_clear_line(tmp_path: Path, ending: str) -> None:
    from safetensors.torch import save_file

    weights = {"encoder.stages.0.0.convs.0.conv.weight": torch.ones(2000)}
    (torch.save if ending == "pth" else save_file)(weights, tmp_path / f"whole.{ending}")
    whole = (tmp_path / f"whole.{ending}").read_bytes()
    for part in (0, 1, 7, 9, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / f"cut.{ending}").write_bytes(whole[:part])
        with pytest.raises(NnsslError, match="damaged or not a"):
            read_weights(tmp_path / f"cut.{ending}")


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(NnsslError, match="TorchScript"):
        read_weights(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "z.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(NnsslError, match=r"an archive, but not a torch file \(it holds readme\.txt\)"):
        read_weights(tmp_path / "z.pth")
    (tmp_path / "list.pth").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(NnsslError, match="not of torch"):
        read_weights(tmp_path / "list.pth")
    torch.save([torch.zeros(2)], tmp_path / "l.pth")
    with pytest.raises(NnsslError, match="not hold a dictionary of weights but a list"):
        read_weights(tmp_path / "l.pth")
    torch.save({"encoder.x": torch.eye(3).to_sparse()}, tmp_path / "s.pth")
    with pytest.raises(NnsslError, match="_rebuild_sparse_tensor"):
        read_weights(tmp_path / "s.pth")


def test_every_kind_of_weights_passes_the_scan(tmp_path: Path) -> None:
    """The list of what is let through must not be so short that honest files are refused."""
    types = (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
    )
    content = {str(t): torch.zeros(3, 2).to(t) for t in types}
    content |= {
        "parameter": torch.nn.Parameter(torch.zeros(2)),
        "view": torch.zeros(4, 4)[1:, ::2],
        "none": torch.zeros(0),
    }
    content |= {"size": torch.Size([1]), "type": torch.float32, "set": {1}, "device": torch.device("cpu")}
    for zipped in (True, False):
        torch.save(content, tmp_path / "k.pth", _use_new_zipfile_serialization=zipped)
        scan = scan_torch_file(tmp_path / "k.pth")
        assert scan.foreign == []
        assert scan.wrong == []
