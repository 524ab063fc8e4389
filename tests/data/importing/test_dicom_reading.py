from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from nnssl.data.importing import dicom_reading
from nnssl.data.importing.dicom_reading import Answer, read_headers, read_piece
from tests.data.importing import dicom_files as d


def dies_of_one_file(paths: Sequence[Path]) -> Answer:
    if any(path.name == "deadly" for path in paths):
        os._exit(3)
    return read_piece(paths)


def test_a_file_that_crashes_the_reader_is_lost_alone(tmp_path: Path) -> None:
    paths = d.write_series(tmp_path, d.volume())
    paths[4].rename(tmp_path / "deadly")
    (tmp_path / "report").write_bytes(paths[3].read_bytes()[:140])
    headers, failures = read_headers(sorted(tmp_path.iterdir()), 2, dies_of_one_file)
    assert len(headers) == 9
    assert failures["reading its header ends in a crash"] == [tmp_path / "deadly"]
    assert [files for reason, files in failures.items() if "GDCM" in reason] == [[tmp_path / "report"]]


def test_pieces_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = d.write_series(tmp_path, d.volume()) + d.write_series(tmp_path / "b", d.volume((5, 9, 9)), series=2)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    expected = read_headers([*paths, tmp_path / "gone"], 1)
    assert len(expected[0]) == 15
    assert expected[1] == {"cannot be opened (No such file or directory)": [tmp_path / "gone"]}
    monkeypatch.setattr(dicom_reading, "AT_ONCE", 4)
    assert read_headers([*paths, tmp_path / "gone"], 2) == expected


def test_names_in_other_alphabets(tmp_path: Path) -> None:
    extra = {(8, 5): ("CS", "ISO_IR 100"), (0x10, 0x20): ("LO", "Müller"), (0x10, 0x10): ("PN", "Müller^Ä")}
    d.write_series(tmp_path, d.volume(), extra=extra)
    headers, failures = read_headers(sorted(tmp_path.iterdir()), 1)
    assert not failures
    assert len({h.patient for h in headers}) == 1
