"""Errors that a user can mend. Their text says what is wrong and what to do; commands print it without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

USER_ERROR = 2
"""Exit code of a command that was given something wrong."""


class NnsslError(ValueError):
    """A wrong input, setting or file. The message holds the fix."""

    exit_code = USER_ERROR


class MissingError(NnsslError, FileNotFoundError):
    """A file, folder or environment variable that should be there and is not."""

    def __str__(self) -> str:
        # FileNotFoundError formats its arguments as errno and path; ours is one sentence.
        return str(self.args[0]) if self.args else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` when some known word is close to `word`, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def shortened(names: Iterable[str], most: int = 5, longest: int = 60) -> str:
    """The first few names, and how many more there are; a name that is longer than `longest` ends in "..."."""
    known = [name if len(name) <= longest else name[: longest - 3] + "..." for name in names]
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more
