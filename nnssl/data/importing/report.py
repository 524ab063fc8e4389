"""What an import took, what it left out, and why."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path
from typing import Any

from nnssl.data.importing.items import DICOM, Found, Item, LeftOut, Written
from nnssl.errors import NnsslError
from nnssl.files import atomic_path

REPORT = "import_report.json"
FORMAT = 1
"""Of import_report.json."""
MAPPING = ("case", "source", "result")
"""Columns of the file that --mapping names."""

MIXED = "the pool mixes orientations"


class Report:
    """Collects what happens to the items, in order.

    Args:
        found: what the sources hold.
        earlier: the report of earlier imports into the same pool.
    """

    def __init__(self, found: Found, earlier: dict[str, Any] | None = None) -> None:
        self.found = found
        self.earlier = earlier or {}
        self.cases: dict[str, dict[str, Any]] = {}
        self.subjects: dict[str, str] = {}
        self.duplicates: list[dict[str, str]] = []
        self.duplicates_shown: list[str] = []
        self.rejected: list[LeftOut] = list(found.left_out)
        self.notes: list[str] = list(found.notes)
        self.mapping: list[tuple[str, str, str]] = [("", entry.shown, entry.reason) for entry in found.left_out]

    def take(self, item: Item, written: Written, name: str, subject: str) -> None:
        """A new case."""
        self.cases[name] = {
            "kind": item.kind,
            "shape": list(written.shape),
            "spacing": [round(s, 6) for s in written.spacing],
            "orientation": written.orientation,
            "dtype": written.dtype,
            "linked": written.linked,
            "digest": written.digest,
            "notes": list(written.notes),
        }
        if subject:
            self.subjects[name] = subject
        self.mapping.append((name, _source(item, written.frame), "taken"))

    def duplicate(self, item: Item, written: Written, of: str) -> None:
        """The same voxels as a case that is there."""
        frame = f", frame {written.frame + 1}" if written.frames > 1 else ""
        self.duplicates.append({"what": item.where + frame, "of": of})
        self.duplicates_shown.append(f"{item.shown}{frame} = {of}")
        self.mapping.append(("", _source(item, written.frame), f"duplicate of {of}"))

    def left_out(self, item: Item, reason: str, frame: int | None = None) -> None:
        """An item, or one frame of it, that is not taken."""
        part = "" if frame is None else f", frame {frame + 1}"
        self.rejected.append(LeftOut(item.kind, item.where + part, item.shown + part, reason))
        self.mapping.append(("", _source(item, frame or 0), reason))

    def nothing(self, what: str) -> str:
        """One line for an import without a result."""
        reasons = Counter(entry.reason for entry in self.rejected)
        said = "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common(3))
        if self.duplicates:
            said = "; ".join(filter(None, [f"{len(self.duplicates)} duplicate(s) of what is there", said]))
        others = ", ".join(f"{n} {ending}" for ending, n in sorted(self.found.other_files.items()))
        tail = f" ({said})" if said else ""
        return f"{what}{tail}. " + (f"Other files: {others}. " if others else "") + "Nothing has been written"

    def orientations(self) -> Counter[str]:
        """How many cases of the pool, earlier ones included, have which orientation."""
        return Counter(str(case["orientation"]) for case in self.all_cases().values())

    def all_cases(self) -> dict[str, dict[str, Any]]:
        """Earlier cases and new ones."""
        return {**self.earlier.get("cases", {}), **self.cases}

    def pool_notes(self) -> list[str]:
        """Notes on the sources, and a warning where the pool mixes orientations."""
        mixed = self.orientations().most_common()
        if len(mixed) < 2:
            return self.notes
        counts = ", ".join(f"{code} ({n})" for code, n in mixed)
        line = f"{MIXED}: {counts}; --orientation {mixed[0][0]} would turn all to one"
        return [*self.notes, line]

    def as_json(self) -> dict[str, Any]:
        """The content of import_report.json; holds paths of files at most below the sources, and nothing of DICOM."""
        earlier = self.earlier
        rejected = [{"what": r.where, "kind": r.kind, "reason": r.reason} for r in self.rejected]
        others = Counter(earlier.get("other_files", {})) + Counter(self.found.other_files)
        notes = [note for note in earlier.get("notes", []) if not note.startswith(MIXED)]
        return {
            "nnssl_import": FORMAT,
            "cases": self.all_cases(),
            "duplicates": [*earlier.get("duplicates", []), *self.duplicates],
            "left_out": [*earlier.get("left_out", []), *rejected],
            "other_files": dict(sorted(others.items())),
            "notes": [*notes, *self.pool_notes()],
        }

    def write_mapping(self, path: Path) -> None:
        """Case -> where it came from; added to what an earlier import wrote there.

        This is the one file that may name patients: it goes where the user says.
        """
        earlier = read_mapping(path)
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(MAPPING)
            table.writerows([*earlier, *self.mapping])


def read_mapping(path: Path) -> list[tuple[str, str, str]]:
    """Rows of an earlier mapping; none if there is no such file.

    Raises:
        NnsslError: the file is something else, or cannot be written.
    """
    if not path.is_file():
        if not os.access(next(p for p in path.absolute().parents if p.exists()), os.W_OK) or path.exists():
            raise NnsslError(f"--mapping {path} cannot be written: name a file in a folder of yours")
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [tuple(row) for row in csv.reader(file)]
    except (UnicodeDecodeError, csv.Error):
        rows = []
    if not rows or rows[0] != MAPPING or any(len(row) != len(MAPPING) for row in rows):
        raise NnsslError(f"--mapping {path} exists and is no mapping of nnssl_import: name another file")
    return [(row[0], row[1], row[2]) for row in rows[1:]]


def _source(item: Item, frame: int) -> str:
    """Path of a file; of a DICOM series, of its first slice."""
    files = item.files[frame if item.kind == DICOM and frame < len(item.files) else 0]
    return str(Path(files[0]).absolute()) + (f" frame {frame + 1}" if frame and item.kind != DICOM else "")
