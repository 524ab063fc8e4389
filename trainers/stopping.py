"""SIGTERM and SIGUSR1 (what schedulers send before they kill): finish the step, save, leave."""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class StopRequest:
    """Remembers that a signal asked to stop. Use as a context manager; former handlers come back afterwards."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._former: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python cannot install handlers
            self._former = {s: signal.signal(s, self._remember) for s in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.signal_number = number

    def __bool__(self) -> bool:
        return self.signal_number is not None


class Stopped(SystemExit):
    """The run was saved and left on request; exit code 128 + signal, as the shell expects of a signalled process."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(128 + signal_number)
