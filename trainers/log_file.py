"""nnU-Net's log file, on a disk that may be full or gone."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path


class LogFile:
    """The part of the trainer that writes the log; nnU-Net's own tries each line for seconds and prints errors raw."""

    log_file: str
    local_rank: int
    _log_failed = False

    def print_to_log_file(self, *args: object, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """As nnU-Net's, on the first rank; the others would say all of it again on the console.

        A line that cannot be written holds nothing up; that is said once, on the console.
        """
        if self.local_rank != 0:
            return
        words = (f"{datetime.now()}:", *args) if add_timestamp else args
        self._append(" ".join(str(word) for word in words) + " \n")
        if also_print_to_console:
            print(*words)  # noqa: T201  nnU-Net's trainers talk to the console this way

    def _append(self, line: str) -> None:
        try:
            with Path(self.log_file).open("a", encoding="utf-8") as file:
                file.write(line)
            self._log_failed = False
        except OSError as error:
            if not self._log_failed:
                print(f"WARNING: cannot write {self.log_file}: {error.strerror}; lines are printed here alone")  # noqa: T201
            self._log_failed = True
