from __future__ import annotations

import pytest

from nnssl.data.importing.channels import decide_channels
from nnssl.data.importing.items import DICOM, NNUNET, Found, Item
from nnssl.errors import NnsslError

SERIES = Item(DICOM, (("/SMITH/1",),), "series 1", "SMITH")


def found(loose: bool = False, **datasets: tuple[str, ...]) -> Found:
    items = [Item(NNUNET, (("x",),), "x", "x", dataset=name) for name in datasets]
    return Found(items=items + [SERIES] * loose, channel_names=datasets)


def test_names_of_datasets_are_taken_over() -> None:
    assert decide_channels(None, found(A=("T1", "T2"), B=("t1", "t2")), None, []) == ("T1", "T2")
    assert decide_channels(("ct",), found(loose=True), None, []) == ("CT",)


def test_numbers_of_channels_must_agree() -> None:
    with pytest.raises(NnsslError, match=r"A has 2 channel\(s\) \(T1, T2\), B has 1 channel\(s\) \(T1\)"):
        decide_channels(None, found(A=("T1", "T2"), B=("T1",)), None, [])
    with pytest.raises(NnsslError, match=r"series 1 has 1 channel"):
        decide_channels(("T1", "T2"), found(True, A=("T1", "T2")), None, [])


def test_differing_names_need_a_decision_that_the_report_tells() -> None:
    with pytest.raises(NnsslError, match="say what it is with --channel"):
        decide_channels(None, found(A=("T1",), B=("MRI",)), None, [])
    notes: list[str] = []
    assert decide_channels(("MR",), found(A=("T1",), B=("MRI",)), None, notes) == ("MR",)
    assert "A has 1 channel(s) (T1), B has 1 channel(s) (MRI); the pool has MR" in notes[0]
    notes.clear()
    assert decide_channels(("MR",), found(A=("T1",)), None, notes) == ("MR",)
    assert "as --channel says" in notes[0]


def test_what_goes_into_the_report_names_no_path_of_a_series() -> None:
    notes: list[str] = []
    decide_channels(("MR",), found(True, A=("T1",)), None, notes)
    assert notes
    assert "SMITH" not in notes[0]


def test_a_pool_keeps_its_channels() -> None:
    assert decide_channels(None, found(A=("mri",)), ("MRI",), []) == ("MRI",)
    assert decide_channels(("mri",), found(loose=True), ("MRI",), []) == ("MRI",)
    with pytest.raises(NnsslError, match="the pool's channel is MRI"):
        decide_channels(("CT",), found(loose=True), ("MRI",), [])
