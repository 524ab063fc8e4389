"""The bytes of an image behind its header: are they all there?"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

from nnssl.data.parallel import Failure

PIECE = 2**22


@dataclass(frozen=True)
class Payload:
    """Image data in `path`, from byte `start`."""

    path: Path
    start: int

    def check(self, expected: int, encoding: str | None) -> None:
        """Compare the length with what the header promises.

        Args:
            expected: bytes of the unpacked image.
            encoding: `raw`, `gzip` or `zlib`; None = one that only the reader knows.

        Raises:
            Failure: the file is missing, damaged or too short.
        """
        if not self.path.is_file():
            raise Failure(f"its data file {self.path.name} does not exist")
        if encoding is None:
            return
        there = self.path.stat().st_size - self.start if encoding == "raw" else self._unpacked()
        if there < expected:
            raise Failure(f"truncated: {max(there, 0):,} of {expected:,} bytes are there")

    def _unpacked(self) -> int:
        """Length after unpacking, in pieces: as many zlib or gzip members as there are."""
        length = 0
        try:
            with self.path.open("rb") as f:
                f.seek(self.start)
                unpack = zlib.decompressobj(47)  # zlib or gzip, whichever the data begin with
                while piece := f.read(PIECE):
                    while piece:
                        length += len(unpack.decompress(piece))
                        piece = unpack.unused_data
                        if unpack.eof and piece[:2] == b"\x1f\x8b":
                            unpack = zlib.decompressobj(47)
                        elif unpack.eof:
                            return length
                length += len(unpack.flush())
        except zlib.error as error:
            raise Failure(f"damaged or truncated ({error})") from error
        return length
