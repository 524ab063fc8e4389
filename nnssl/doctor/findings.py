"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        about: what was checked.
        state: ok; warning = works, but slower or less surely than it could; problem = something will fail.
        says: what was found.
        mend: what to do; empty when all is well.
    """

    about: str
    state: State
    says: str
    mend: str = ""


def ok(about: str, says: str) -> Finding:
    return Finding(about, "ok", says)


def warning(about: str, says: str, mend: str) -> Finding:
    return Finding(about, "warning", says, mend)


def problem(about: str, says: str, mend: str) -> Finding:
    return Finding(about, "problem", says, mend)
