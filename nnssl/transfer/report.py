"""What a load did: no weight is taken, left or missing without a word."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any


def part_of(key: str) -> str:
    """Part of the network a key belongs to: `stem`, `encoder stage 2`, `decoder stage 0`, `head`."""
    words = key.split(".")
    if words[0] == "encoder":
        if words[1] == "stages" and len(words) > 2:
            return f"encoder stage {words[2]}"
        return "stem" if words[1] == "stem" else "encoder"
    if words[0] == "decoder":
        return f"decoder stage {words[2]}" if words[1] in ("stages", "transpconvs") else "head"
    return "head"


@dataclass
class LoadReport:
    """Parameters by part of the network and by what became of them (numbers of values).

    Attributes:
        loaded: taken from the file as they are.
        adapted: taken from the file and fitted.
        how: in which ways, by part.
        new: in the target only; freshly initialised.
        unused: in the file only.
        remarks: what differs between pretraining and target though the weights load; one sentence each.
    """

    loaded: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    adapted: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    how: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    new: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unused: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    remarks: list[str] = field(default_factory=list)

    @property
    def encoder_coverage(self) -> float:
        """Share of the target encoder's values that came from the file, in [0, 1]."""
        loaded, adapted, new = (
            sum(n for part, n in d.items() if part == "stem" or part.startswith("encoder"))
            for d in (self.loaded, self.adapted, self.new)
        )
        return (loaded + adapted) / (loaded + adapted + new) if loaded + adapted + new else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for files."""
        return {
            "loaded": dict(self.loaded),
            "adapted": dict(self.adapted),
            "how": {part: sorted(how) for part, how in self.how.items()},
            "new": dict(self.new),
            "unused": dict(self.unused),
            "remarks": list(self.remarks),
            "encoder_coverage": self.encoder_coverage,
        }

    def lines(self) -> list[str]:
        """One line per part of the network, and the coverage."""
        parts = sorted({*self.loaded, *self.adapted, *self.new, *self.unused}, key=_order)
        lines = []
        for part in parts:
            fitted = f"adapted ({'; '.join(sorted(self.how.get(part, ())))})"
            counts = (
                (self.loaded, "loaded"),
                (self.adapted, fitted),
                (self.new, "new"),
                (self.unused, "in the file, not used"),
            )
            said = ", ".join(f"{d[part]:,} {word}" for d, word in counts if d.get(part))
            lines.append(f"  {part:<16} {said}")
        lines.append(f"  encoder covered: {100 * self.encoder_coverage:.1f} %")
        return [*lines, *(f"  note: {remark}" for remark in self.remarks)]


def _order(part: str) -> tuple[int, str]:
    return (["stem", "encoder", "decoder", "head"].index(part.split()[0]), part)
