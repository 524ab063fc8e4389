"""What a load did: no weight is taken, left or missing without a word."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any


def part_of(key: str) -> str:
    """Part of the network a key belongs to: `stem`, `encoder stage 2`, `decoder stage 0`, `head`."""
    words = key.split(".")
    if words[0] == "encoder":
        return f"encoder stage {words[2]}" if words[1] == "stages" and len(words) > 2 else "stem"
    if words[0] == "decoder":
        return f"decoder stage {words[2]}" if words[1] in ("stages", "transpconvs") else "head"
    return "head"


@dataclass
class LoadReport:
    """Parameters by part of the network and by what became of them (numbers of values).

    Attributes:
        loaded: taken from the file.
        new: in the target only; freshly initialised.
        unused: in the file only.
    """

    loaded: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    new: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unused: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def encoder_coverage(self) -> float:
        """Share of the target encoder's values that came from the file, in [0, 1]."""
        loaded, new = (
            sum(n for part, n in d.items() if part == "stem" or part.startswith("encoder"))
            for d in (self.loaded, self.new)
        )
        return loaded / (loaded + new) if loaded + new else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for files."""
        return {
            "loaded": dict(self.loaded),
            "new": dict(self.new),
            "unused": dict(self.unused),
            "encoder_coverage": self.encoder_coverage,
        }

    def lines(self) -> list[str]:
        """One line per part of the network, and the coverage."""
        parts = sorted({*self.loaded, *self.new, *self.unused}, key=_order)
        lines = []
        for part in parts:
            counts = ((self.loaded, "loaded"), (self.new, "new"), (self.unused, "in the file, not used"))
            said = ", ".join(f"{d[part]:,} {word}" for d, word in counts if d.get(part))
            lines.append(f"  {part:<16} {said}")
        lines.append(f"  encoder covered: {100 * self.encoder_coverage:.1f} %")
        return lines


def _order(part: str) -> tuple[int, str]:
    return (["stem", "encoder", "decoder", "head"].index(part.split()[0]), part)
