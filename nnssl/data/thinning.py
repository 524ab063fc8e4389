"""Near-duplicate slices: a perceptual hash per slice, and which slices of a subject to keep.

The hash is the DCT hash (Zauner 2010): the slice shrunk to 32 x 32, the signs of its 63 lowest frequencies about their
median. It does not change with brightness and contrast, and little with noise. The distance of two slices is the number
of bits in which they differ: 0 for the same picture, 32 on average for unrelated ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIDE, FREQUENCIES = 32, 8
BITS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)


@dataclass(frozen=True, eq=False)
class KeptSlices:
    """The kept slices of every case of a pool, in one array: pools have many cases.

    Attributes:
        starts: (N + 1,) int64; case i owns slices[starts[i]:starts[i + 1]].
        slices: int32 slice numbers, rising within a case.
    """

    starts: np.ndarray
    slices: np.ndarray

    @classmethod
    def of_cases(cls, slices: Sequence[Sequence[int] | np.ndarray]) -> KeptSlices:
        """From the kept slices of every case, in pool order."""
        starts = np.concatenate([[0], np.cumsum([len(s) for s in slices])]).astype(np.int64)
        return cls(starts, np.concatenate([*slices, np.empty(0)]).astype(np.int32))

    def of(self, case: int) -> np.ndarray:
        """Kept slices of a case."""
        return self.slices[self.starts[case] : self.starts[case + 1]]

    def counts(self) -> np.ndarray:
        """(N,) number of kept slices of every case."""
        return np.diff(self.starts)

    @property
    def signature(self) -> str:
        """Changes with the content."""
        return hashlib.blake2b(self.starts.tobytes() + self.slices.tobytes(), digest_size=16).hexdigest()


def slice_hash(image: np.ndarray) -> int:
    """Perceptual hash of a slice, 63 bits.

    Args:
        image: (C, Y, X); channels are compared by their mean, each scaled to a standard deviation of one.
    """
    from scipy.fft import dctn
    from skimage.transform import resize

    image = image.astype(np.float32)
    spread = image.std(axis=(1, 2), keepdims=True)
    flat = np.where(spread > 0, (image - image.mean(axis=(1, 2), keepdims=True)) / np.maximum(spread, 1e-12), 0).mean(0)
    small = resize(flat, (SIDE, SIDE), order=1, mode="edge", anti_aliasing=True, preserve_range=True)
    # without the mean, and rounded: bits must not hang on the last digit of a library's arithmetic
    lowest = np.round(dctn(small, norm="ortho")[:FREQUENCIES, :FREQUENCIES].ravel()[1:], 4)
    bits = lowest > np.median(lowest)
    return int(np.packbits(np.concatenate([[False], bits])).view(">u8")[0])


def bit_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Number of bits in which uint64 hashes differ, elementwise with broadcasting."""
    return BITS_OF_BYTE[np.bitwise_xor(a, b)[..., None].view(np.uint8)].sum(axis=-1)


def keep_apart(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Which slices to keep: each whose distance to every kept one before it is larger than `distance`.

    Args:
        hashes: (K,) uint64, the slices of one subject in order.
        distance: bits.

    Returns:
        (K,) int64: for a kept slice its own position, for a dropped one that of the first kept slice it resembles.
    """
    like = np.empty(len(hashes), np.int64)
    kept: list[int] = []
    kept_hashes = np.empty(len(hashes), np.uint64)
    for i, value in enumerate(hashes):
        near = np.flatnonzero(bit_distance(kept_hashes[: len(kept)], value) <= distance)
        if near.size:
            like[i] = kept[near[0]]
        else:
            like[i] = i
            kept_hashes[len(kept)] = value
            kept.append(i)
    return like
