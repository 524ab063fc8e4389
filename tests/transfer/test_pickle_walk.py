"""Small pickles that would grow in the reading are refused; each would be let through by torch's `weights_only`."""

from __future__ import annotations

import collections
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.transfer import torch_files
from nnssl.transfer.torch_scan import scan_torch_file

ENCODE = b"c_codecs\nencode\n"
ORDERED = b"ccollections\nOrderedDict\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def write(path: Path, value: bytes) -> Path:
    """A torch file of the dictionary {"w": value}, with a storage of two numbers."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}" + text("w") + value + b"s.")
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", bytes(8))
    return path


def encoded(times: int) -> bytes:
    """Bytes that are twice as long after each coding."""
    value = ENCODE + text("a" * 16) + text("latin1") + b"\x86R"
    for _ in range(times):
        value = ENCODE + value + text("hex_codec") + b"\x86R"
    return value


def again_and_again(function: bytes, arguments: list[bytes], times: int) -> bytes:
    """A list: a tuple of the arguments and the function, which are then called with what stands there already."""
    stored = b"".join(a + b"q" + bytes([i]) for i, a in enumerate([*arguments, function]))
    here = b"h" + bytes([len(arguments)]) + b"(" + b"".join(b"h" + bytes([i]) for i in range(len(arguments))) + b"tR"
    return b"](" + b"(" + stored + b"t" + here * times + b"e"


def storage(numel: int) -> bytes:
    return b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(numel) + b"tQ"


def tensor(size: list[int], stride: list[int], offset: int = 0) -> bytes:
    """Of the file's storage."""
    shape = [b"(" + b"".join(number(n) for n in numbers) + b"t" for numbers in (size, stride)]
    inside = storage(2) + number(offset) + b"".join(shape) + b"\x89" + ORDERED + b")R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + inside + b"tR"


def references(times: int) -> bytes:
    """A list of nine times the same list of nine times the same ..."""
    value = b"](" + b"N" * 9 + b"eq\x00"
    for i in range(times):
        value = b"](" + value + (b"h" + bytes([i])) * 8 + b"eq" + bytes([i + 1])
    return value


PAIRS = b"](" + b"".join(b"M" + struct.pack("<H", i) + b"N\x86" for i in range(8000)) + b"e"
GROWING = {
    "another coding": (encoded(1), "bytes in the coding hex_codec"),
    "coded again": (ENCODE + encoded(0) + text("latin1") + b"\x86R", "bytes in the coding latin1 and not as"),
    "one text often": (again_and_again(ENCODE, [text("a" * 20_000), text("latin1")], 3000), "calls with 60,"),
    "one list often": (again_and_again(ORDERED, [PAIRS], 200), "calls with 1,6"),
    "far apart": (tensor([2], [3 * 10**8]), "a tensor of 2 values in a storage of 2"),
    "backwards": (tensor([2], [-1]), "a size that is no number of values"),
    "before the storage": (tensor([2], [1], -1), "a size that is no number of values"),
    "a storage twice": (b"](" + storage(10**9) + storage(2) + b"e", "storage 0 twice"),
    "a type without its making": (
        b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n" + text("V500000000") + b"\x85\x81\x85R",
        "a NumPy value of type V500000000",
    ),
    "references": (references(30), "lists in one another that unfold"),
    "itself": (b"]q\x00h\x00a", "lists in one another that unfold"),
    "depth": (b"]" * 5000 + b"a" * 4999, "more than 200 deep"),
    "room for a text": (b"X\xff\xff\xff\x7f", "ends too early"),
    "room for bytes": (b"\x96" + struct.pack("<Q", 2**31), "damaged or not a torch file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", GROWING)
def test_what_grows_in_the_reading_is_refused(tmp_path: Path, kind: str) -> None:
    value, said = GROWING[kind]
    path = write(tmp_path / "w.pth", value)
    tracemalloc.start()
    try:
        with pytest.raises(NnsslError, match=said) as caught:
            torch_files.load(path)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_such_a_file_would_grow_elsewhere(tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    found = torch.load(write(tmp_path / "w.pth", encoded(10)), weights_only=True)
    assert len(found["w"]) == 16 * 2**10


def test_what_torch_and_numpy_write_passes(tmp_path: Path) -> None:
    shared = torch.zeros(4, 4)
    content: dict[str, Any] = {
        "bytes": b"\x00\xff" * 1000, "numbers": [np.float64(i) for i in range(3000)], "set": set(range(1000)),
        "ordered": collections.OrderedDict((str(i), shared) for i in range(1000)), "views": [shared[1:, ::2], shared.T],
        "counter": collections.Counter("abca"), "again": [shared] * 3000, "deep": {"a": [{"b": ({"c": [1]},)}]},
        "none": shared[5:], "module": torch.nn.Linear(2, 2).state_dict(),
    }  # fmt: skip
    for zipped in (True, False):
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        scan = scan_torch_file(tmp_path / "w.pth")
        assert scan.wrong == [] and scan.foreign == []
        found = torch_files.load(tmp_path / "w.pth")
        assert found["bytes"] == content["bytes"] and found["numbers"] == content["numbers"]
