"""The case store: blosc2 files that nnU-Net reads, written once, read one crop at a time."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from nnssl.errors import NnsslError
from nnssl.files import atomic_path

BODY_SUFFIX = "_body.npy"  # nnU-Net ignores .npy beside .b2nd; any other ending would make it refuse the folder
SUFFIXES = (".b2nd", "_seg.b2nd", ".pkl", BODY_SUFFIX)
"""Files of a stored case."""
FLOAT16_LIMIT = 60000.0
MOST_CHANNELS = 1000
PREPROCESS_AGAIN = "remove the case's files and run nnssl_plan_and_preprocess again"


def save_case(
    target: Path,
    data: np.ndarray,
    seg: np.ndarray,
    body: np.ndarray,
    properties: dict[str, Any],
    patch_size: Sequence[int],
    half: bool,
) -> None:
    """Write one preprocessed case in nnU-Net's file layout, each file atomically, the image last.

    Args:
        target: folder / case name.
        data: (C, Z, Y, X) normalised.
        seg: (1, Z, Y, X) labels; -1 outside the non-zero region.
        body: (K, 3) int32 positions inside the body.
        properties: nnU-Net's per-case properties.
        patch_size: of the configuration, for nnU-Net's chunk layout.
        half: store float16. Only for cases without labels: nnU-Net's own validation on a CPU feeds what it reads
            straight to a float32 network.
    """
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

    half = half and float(np.abs(data).max()) < FLOAT16_LIMIT
    data = data.astype(np.float16 if half else np.float32, copy=False)
    seg = seg.astype(np.int16 if seg.max() > 127 else np.int8, copy=False)
    name = target.name
    with atomic_path(target.with_name(name + ".pkl")) as path:
        path.write_bytes(pickle.dumps(properties, protocol=4))
    with atomic_path(target.with_name(name + BODY_SUFFIX)) as path, path.open("wb") as f:
        np.save(f, body.astype(np.int32))
    for suffix, array in (("_seg.b2nd", seg), (".b2nd", data)):
        blocks, chunks = comp_blosc2_params(array.shape, tuple(patch_size), array.itemsize)
        with atomic_path(target.with_name(name + suffix)) as path:
            path.unlink()  # blosc2 wants to create the file itself
            blosc2.asarray(
                np.ascontiguousarray(array),
                urlpath=str(path),
                chunks=chunks,
                blocks=blocks,
                cparams={"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1},
            )


def is_complete(target: Path) -> bool:
    """Whether all files of a stored case (folder / case name) are there."""
    return all(target.with_name(target.name + s).is_file() for s in SUFFIXES)


def remove_case(target: Path) -> None:
    """Delete a stored case (folder / case name); the image first, so that nothing takes the rest for a case."""
    for suffix in SUFFIXES:
        target.with_name(target.name + suffix).unlink(missing_ok=True)


def remove_other_cases(folder: Path, names: Iterable[str]) -> None:
    """Delete all stored cases of a folder but these, images first."""
    belong = {name + suffix for name in names for suffix in SUFFIXES}
    for suffix in SUFFIXES:
        for path in folder.iterdir():
            if path.name.endswith(suffix) and path.name not in belong:
                path.unlink(missing_ok=True)


def case_shape(path: Path) -> tuple[int, ...]:
    """(C, Z, Y, X) of a stored case, from its header."""
    return tuple(int(n) for n in open_case(path).shape)


def open_case(path: Path) -> Any:
    """Open a stored case for reading; nothing is decompressed yet."""
    try:
        array = blosc2.open(urlpath=str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
        shape, kind = array.shape, array.dtype.kind
    except Exception as error:  # whatever a damaged frame makes of the library
        raise NnsslError(f"{path} cannot be read ({error}): {PREPROCESS_AGAIN}") from error
    if len(shape) != 4 or min(shape) < 1 or shape[0] > MOST_CHANNELS or kind not in "fiu":
        raise NnsslError(f"{path} is damaged (shape {shape}, {array.dtype}): {PREPROCESS_AGAIN}")
    return array


class CaseReader:
    """Reads crops; keeps the last few files open. One per worker process.

    Args:
        keep_open: files.
        unpacked: takes a path and the opened file and gives the array to read from, see `nnssl.data.cache`.
        check: called with a path before its file is opened; raises NnsslError, see `nnssl.data.checksums`.
    """

    def __init__(
        self,
        keep_open: int = 64,
        unpacked: Callable[[Path, Any], Any] | None = None,
        check: Callable[[Path], None] | None = None,
    ) -> None:
        self._unpacked = unpacked
        self._check = check
        self._open: OrderedDict[Path, Any] = OrderedDict()
        self._keep_open = keep_open

    def crop(self, path: Path, lower: Sequence[int], size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Read a box that may reach beyond the image; outside is zero.

        Args:
            path: a .b2nd file holding (C, Z, Y, X).
            lower: first voxel of the box per axis (may be negative).
            size: voxels per axis.

        Returns:
            (C, *size) in the stored type, and (3, 2) int64: the part of the crop that lies inside the image.

        Raises:
            NnsslError: the file is damaged; it is named.
        """
        array = self._array(path)
        try:
            return self._crop(array if self._unpacked is None else self._unpacked(path, array), lower, size)
        except Exception as error:  # whatever a damaged frame makes of the library
            raise NnsslError(f"{path} is damaged ({error}): {PREPROCESS_AGAIN}") from error

    @staticmethod
    def _crop(array: Any, lower: Sequence[int], size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        shape = array.shape[1:]
        first = [min(max(-lo, 0), s) for lo, s in zip(lower, size)]
        last = [max(a, min(n - lo, s)) for a, n, lo, s in zip(first, shape, lower, size)]
        inside = np.array([first, last], dtype=np.int64).T
        out = np.zeros((array.shape[0], *size), dtype=array.dtype)
        if all(a < b for a, b in zip(first, last)):  # else the box lies beyond the image altogether
            there = (slice(None), *(slice(a, b) for a, b in zip(first, last)))
            here = (slice(None), *(slice(lo + a, lo + b) for lo, a, b in zip(lower, first, last)))
            out[there] = array[here]
        return out, inside

    def _array(self, path: Path) -> Any:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            if self._check is not None:
                self._check(path)
            self._open[path] = open_case(path)
            if len(self._open) > self._keep_open:
                self._open.popitem(last=False)
        return self._open[path]
