"""The table of the page, from matrix.csv: `python documentation/results/transfer/table.py`."""

from __future__ import annotations

import csv
import re
from pathlib import Path

LIKE = "planned with --like FILE"


def said(row: dict[str, str]) -> str:
    """A cell in a few words."""
    if row["outcome"] in ("refused", "FAILED"):
        return row["outcome"]
    share = "" if float(row["covered"]) == 1 else f" {100 * float(row['covered']):.0f} %"
    exact = ", equal" if row["encoder"].startswith("equal") else ""
    return f"{row['outcome']}{share}{exact}"


def general(detail: str) -> str:
    """A reason without the numbers of one cell."""
    return re.sub(r"^.*?: the file's tensor has \S+ values, the target's \S+?\. ", "", detail)


def main() -> None:
    rows = list(csv.DictReader((Path(__file__).parent / "matrix.csv").open()))
    columns = list(dict.fromkeys(r["target"] for r in rows))
    columns.sort(key=lambda c: c == LIKE)
    cells = {(r["source"], r["target"]): said(r) for r in rows}
    print("| file | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for source in dict.fromkeys(r["source"] for r in rows):
        print(f"| {source} | " + " | ".join(cells.get((source, c), "") for c in columns) + " |")
    print("\nReasons of refusals:\n")
    for reason in sorted({general(r["detail"]) for r in rows if r["outcome"] == "refused"}):
        print(f"- {reason}")


if __name__ == "__main__":
    main()
