"""The bytes of an image behind its header: are they all there?"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

from nnssl.data.parallel import Failure
from nnssl.errors import shortened

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
        try:
            there = self._there(expected, encoding)
        except OSError as error:  # a name that no file can have
            raise Failure(f"its data file {shortened([self.path.name])} cannot be read ({error.strerror})") from error
        if there is not None and there < expected:
            raise Failure(f"truncated: {max(there, 0):,} of {expected:,} bytes are there")

    def _there(self, expected: int, encoding: str | None) -> int | None:
        """Bytes of the image that are there; None = not known."""
        if not self.path.is_file():
            raise Failure(f"its data file {shortened([self.path.name])} does not exist")
        if encoding is None:
            return None
        there = self.path.stat().st_size - self.start
        return there if encoding == "raw" or there < 0 else self._unpacked(expected)

    def _unpacked(self, enough: int) -> int:
        """Length after unpacking, in pieces: as many zlib or gzip members as there are, or until it is more than enough."""
        length = 0
        try:
            with self.path.open("rb") as f:
                f.seek(self.start)
                unpack = zlib.decompressobj(47)  # zlib or gzip, whichever the data begin with
                while length <= enough and (piece := f.read(PIECE)):
                    while piece and length <= enough:
                        length += len(unpack.decompress(piece, PIECE))  # a thousand times as much may come out of it
                        piece = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
                        if unpack.eof and piece[:2] == b"\x1f\x8b":
                            unpack = zlib.decompressobj(47)
                        elif unpack.eof:
                            return length
                if length <= enough:
                    length += len(unpack.flush())
        except zlib.error as error:
            raise Failure(f"damaged or truncated ({error})") from error
        return length
