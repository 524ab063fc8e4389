"""npz files are believed only as far as their bytes go: nothing is unpickled, no memory taken for what is only declared."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nnssl.data import npz_files
from nnssl.data.npz_files import load_npz
from nnssl.errors import NnsslError


def write(path: Path, name: str, header: str, content: bytes, version: bytes = b"\x01\x00") -> Path:
    """An npz file of one array with a header of its own."""
    text = header.encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
        archive.writestr(f"{name}.npy", b"\x93NUMPY" + version + size + text + content)
    return path


def declared(shape: str, kind: str = "<f4") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00"])
def test_an_honest_file_is_read(tmp_path: Path, version: bytes) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(6).reshape(2, 3), y=np.array("text"))
    found = load_npz(tmp_path / "a.npz")
    assert found["x"].tolist() == [[0, 1, 2], [3, 4, 5]] and str(found["y"]) == "text"
    assert set(load_npz(tmp_path / "a.npz", lambda key: key == "y")) == {"y"}
    path = write(tmp_path / "b.npz", "x", declared("(2,)"), np.array([1, 2], "<f4").tobytes(), version)
    assert load_npz(path)["x"].tolist() == [1, 2]


@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00"])
@pytest.mark.parametrize("shape", ["(1000000, 1000000)", "(99,)", "(-5, 2)"])
def test_an_array_that_declares_more_than_it_holds(tmp_path: Path, shape: str, version: bytes) -> None:
    path = write(tmp_path / "a.npz", "x", declared(shape), bytes(8), version)
    with pytest.raises(NnsslError, match=r"x\.npy declares .* bytes and holds"):
        load_npz(path)


def test_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple:
            return open, (str(tmp_path / "owned"), "w")

    path = write(tmp_path / "a.npz", "x", declared("(1,)", "|O"), pickle.dumps([Harm()]))
    with pytest.raises(NnsslError, match="holds Python objects, and loading them could run code"):
        load_npz(path)
    assert not (tmp_path / "owned").exists()


def test_more_than_memory_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(10_000))
    monkeypatch.setattr(npz_files, "usable_memory", lambda: 80_000)
    with pytest.raises(NnsslError, match=r"unpacks to 0 GiB, there are 0 GiB of memory"):
        load_npz(tmp_path / "a.npz")
    assert not load_npz(tmp_path / "a.npz", lambda key: key == "y"), "what is not wanted is not counted"


def test_an_entry_cannot_unpack_to_more_than_its_bytes_hold(tmp_path: Path) -> None:
    """The directory of the archive is damaged: it says another packed size than there is."""
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(200_000))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    at = content.rfind(b"PK\x01\x02")
    content[at + 20 : at + 24] = (100).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(NnsslError, match="unpacks to more than its bytes can hold"):
        load_npz(tmp_path / "a.npz")


def test_an_entry_that_is_no_array_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """np.load hands out an entry without the ending as raw bytes; its size was in nobody's check."""
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images", bytes(50 * 2**20))
    tracemalloc.start()
    try:
        with pytest.raises(NnsslError, match=r"holds train_images, which is no array: write it again with np\.savez"):
            load_npz(tmp_path / "a.npz")
        with pytest.raises(NnsslError, match="train_images"):
            load_npz(tmp_path / "a.npz", lambda key: key == "x")
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("x.npy", archive.read("x.npy"))
    with pytest.raises(NnsslError, match="holds x more than once"):
        load_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("what", ["array", "text", "empty", "cut", "flipped"])
def test_other_and_damaged_files_are_one_line(tmp_path: Path, what: str) -> None:
    path, whole = tmp_path / "a.npz", io.BytesIO()
    np.savez_compressed(whole, x=np.random.default_rng(0).random(1000))
    content = whole.getvalue()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    path.write_bytes({"text": b"hello", "empty": b"", "cut": content[:-30], "flipped": bytes(flipped)}.get(what, b""))
    if what == "array":
        np.save(path.open("wb"), np.arange(3))
    with pytest.raises(NnsslError, match="no npz file that can be read without pickle") as caught:
        load_npz(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NnsslError, match=r"none\.npz does not exist"):
        load_npz(tmp_path / "none.npz")
