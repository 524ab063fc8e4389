from __future__ import annotations

from pathlib import Path

import pytest
from nnssl.trainers.log_file import LogFile


def test_a_log_that_cannot_be_written_holds_nothing_up(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = LogFile()
    log.local_rank, log.log_file = 0, str(tmp_path / "gone" / "training_log.txt")
    log.print_to_log_file("one")
    log.print_to_log_file("two", add_timestamp=False)
    printed = capsys.readouterr().out
    assert printed.count("WARNING: cannot write") == 1
    assert ": one\n" in printed and "\ntwo\n" in printed
    (tmp_path / "gone").mkdir()
    log.print_to_log_file("three", also_print_to_console=False)
    assert (tmp_path / "gone" / "training_log.txt").read_text().endswith(": three \n")
    assert capsys.readouterr().out == ""
