"""Texts that others have written: what a parser chokes on, or takes without a word, is one line."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnssl.trainers.run_config import make_run_config
from nnssl.trainers.saving import saved_config

from nnssl.data.importing.pool_folder import open_pool
from nnssl.data.pool import read_pool
from nnssl.disk import user_error
from nnssl.errors import NnsslError
from nnssl.evaluate.classify.model import read_model
from nnssl.evaluate.embedding import Embedding, read_embedding, write_embedding
from nnssl.evaluate.report.collect import read_results
from nnssl.evaluate.study.cells import record_of
from nnssl.evaluate.study.spec import read_study, recorded_study
from nnssl.files import atomic_path, check_number, read_json, read_rows, read_yaml, write_json
from nnssl.nesting import DEEPEST, ENDLESS, depth_of_tree, extent
from nnssl.transfer import torch_files
from nnssl.transfer.reading import read_weights
from nnssl.transfer.safetensors_files import load
from tests.fuzz.tables import STUDY, study_folder

HOSTILE = {
    "brackets": ("[" * 100_000, "not valid JSON"),
    "brackets that end": ("[" * 300 + "]" * 300, "more than 200 deep"),
    "digits": ("9" * 5000, "digits"),
    "a name twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands there twice"),
    "cut off": ('{"a": ', "not valid JSON"),
    "bytes": (b"\xff\xfe{}", "not valid JSON"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_json_is_one_line(tmp_path: Path, kind: str) -> None:
    text, said = HOSTILE[kind]
    (tmp_path / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(NnsslError, match=said) as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value) and str(tmp_path / "a.json") in str(caught.value)


def test_json_that_is_right_is_read(tmp_path: Path) -> None:
    for value in (None, {"a": [1, {"b": None}]}, [[]] * 1000, float("inf")):
        write_json(value, tmp_path / "a.json")
        assert read_json(tmp_path / "a.json") == value


LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "\n".join(
    f"{y}: &{y} [{','.join(['*' + x] * 9)}]" for x, y in zip("abcdefghijklm", "bcdefghijklmn", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "'c' stands there twice"),
        ("a: &a [*a]", "too deep or too often"),
        (LAUGHS, "too deep or too often"),
        ("a: " + "[" * 1500, "too deep or too often"),
        ("a: " + "9" * 5000, "digits"),
    ],
)
def test_hostile_yaml_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(NnsslError, match=said) as caught:
        read_yaml(tmp_path / "a.yaml", "a.yaml")
    assert "\n" not in str(caught.value)


def test_yaml_may_refer_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a")
    assert read_yaml(tmp_path / "a.yaml", "a") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}


def test_an_initialisation_that_stands_twice_does_not_vanish(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("inits:\n  a: {schedule: scratch}\n  a: {init: x.pth}\n")
    with pytest.raises(NnsslError, match="'a' stands there twice"):
        read_study(tmp_path / "s.yaml")


def test_extent() -> None:
    inner = [1, 2]
    assert extent([inner, {"a": inner}]) == (9, 3)
    assert extent(5) == (1, 1)
    inner.append(inner)  # type: ignore[arg-type]
    assert extent([inner]) == (ENDLESS, DEEPEST + 1)
    assert depth_of_tree({"a": [[], [1]]}) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"case\nx", "no column subject"), (b"", "no column case, but none"), (b"case,subject\n\xff", "UTF-8"),
     (b"case,subject\n" + b"9" * 200_000, "field")],
)  # fmt: skip
def test_tables(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(NnsslError, match=said):
        read_rows(tmp_path / "t.csv", ("case", "subject"))
    (tmp_path / "t.csv").write_bytes(b"case,subject\na\nb,c,d\n")
    assert read_rows(tmp_path / "t.csv", ("case",))[1] == [{"case": "a", "subject": ""}, {"case": "b", "subject": "c"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_as_spreadsheets_write_it(encoding: str, tmp_path: Path) -> None:
    """Semicolons where the comma is the decimal mark, a byte order mark, blanks."""
    (tmp_path / "t.csv").write_text('case; weight\na ;1,5\n\n"b; c";2\n', encoding=encoding)
    columns, rows = read_rows(tmp_path / "t.csv", ("case", "weight"), by_hand=True)
    assert columns == ["case", "weight"]
    assert rows == [{"case": "a", "weight": "1,5"}, {"case": "b; c", "weight": "2"}]


def test_a_table_of_our_own_is_taken_as_it_is(tmp_path: Path) -> None:
    """Classes may be called anything: semicolons in names do not part columns."""
    (tmp_path / "t.csv").write_text("case,p_T1;N0;M0,p_T2;N0;M1\na,0.5,0.5\n")
    assert read_rows(tmp_path / "t.csv")[1] == [{"case": "a", "p_T1;N0;M0": "0.5", "p_T2;N0;M1": "0.5"}]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('case;"a,b,c"\nx;1\n', [{"case": "x", "a,b,c": "1"}]),
        ("case,weight\nx,1\n,,\n , \n", [{"case": "x", "weight": "1"}]),
        ("case,weight\n", []),
    ],
)
def test_tables_of_people(text: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert read_rows(tmp_path / "t.csv", by_hand=True)[1] == rows


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("case,weight, weight\na,1,2\n")
    with pytest.raises(NnsslError, match="two columns named weight"):
        read_rows(tmp_path / "t.csv", by_hand=True)


METADATA = {
    "a second name that is a list": ({"aliases": '{"a": ["x"]}'}, "a second name of"),
    "a second name of nothing": ({"aliases": '{"a": "y"}'}, "a second name of y"),
    "a second name that is a first": ({"aliases": '{"z": "x"}'}, "z is a tensor and a second name"),
    "brackets": ({"provenance": "[" * 100_000}, "provenance is damaged"),
    "digits": ({"provenance": "9" * 5000}, "provenance is damaged"),
    "twice": ({"provenance": '{"a": 1, "a": 2}'}, "'a' stands there twice"),
}


@pytest.mark.parametrize("kind", METADATA)
def test_texts_of_a_safetensors_file(tmp_path: Path, kind: str) -> None:
    import torch
    from safetensors.torch import save_file

    metadata, said = METADATA[kind]
    save_file({"x": torch.ones(2), "z": torch.zeros(2)}, tmp_path / "w.safetensors", metadata)
    with pytest.raises(NnsslError, match=said):
        read_weights(tmp_path / "w.safetensors")


def test_texts_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, tmp_path / "w.safetensors", {"aliases": "none", "format": "pt", "author": "a: b"})
    found = load(tmp_path / "w.safetensors", "tensors")
    assert found["author"] == "a: b" and found["tensors"]["x"].tolist() == [1, 1]


def embedding(path: Path, number: Any) -> None:
    about = {"encoder": "e.pth"} | ({} if number is None else {"format": number})
    write_embedding(Embedding(np.zeros((1, 1)), ("a",), np.array([-1]), ("f",), about), path / "e.npz")


def study(path: Path, number: Any) -> None:
    study_folder(path)
    content = read_json(path / "study.json")
    write_json(content | ({} if number is None else {"format": number}), path / "study.json")


def config(path: Path, number: Any) -> None:
    content = {"config": make_run_config("spark", {}, None, []).model_dump()}
    write_json(content | ({} if number is None else {"format": number}), path / "config.json")


NUMBERED: dict[str, tuple[Any, Any]] = {
    "embedding": (embedding, lambda folder: read_embedding(folder / "e.npz")),
    "study": (study, lambda folder: recorded_study(folder / "study.json")),
    "settings": (config, saved_config),
}


@pytest.mark.parametrize("kind", NUMBERED)
def test_a_newer_format_is_refused_and_none_is_the_first(tmp_path: Path, kind: str) -> None:
    write, read = NUMBERED[kind]
    for number in (None, 1):
        write(tmp_path, number)
        read(tmp_path)
    for number, said in (
        (99, "has format 99, this version reads up to 1: update nnssl"),
        ("x", "is damaged: its format"),
    ):
        write(tmp_path, number)
        with pytest.raises(NnsslError, match=said):
            read(tmp_path)


def test_newer_files_that_need_more_than_a_number(tmp_path: Path) -> None:
    """The number is looked at before anything else: a newer file may hold anything."""
    torch_files.save({"nnssl_classifier": 2}, tmp_path / "model.pth")
    with pytest.raises(NnsslError, match="update nnssl"):
        read_model(tmp_path / "model.pth")
    torch_files.save(
        {"nnssl_format": 2, "network_weights": 5, "nnssl_adaptation_plan": {}, "provenance": {}}, tmp_path / "e.pth"
    )
    with pytest.raises(NnsslError, match="update nnssl"):
        read_weights(tmp_path / "e.pth")
    write_json({"format": 2, "blocks": []}, tmp_path / "p_pool.json")
    with pytest.raises(NnsslError, match="update nnssl"):
        read_pool(tmp_path, "p")
    check_number(["no dictionary"], "format", 1, "its reader says more")


def test_damaged_files_of_a_study(tmp_path: Path) -> None:
    """Somebody has edited them, or a disk has lost a part."""
    study_folder(tmp_path)
    cell = tmp_path / "cells" / "scratch" / "n1" / "seed0"
    write_json({"state": "done", "train_seconds": "long"}, cell / "cell.json")
    (cell / "test.csv").write_text("case,dice\na,1\n")
    with pytest.raises(NnsslError, match=r"test\.csv is damaged: it has no column label"):
        read_results(tmp_path)
    (cell / "test.csv").write_text(f"case,label,dice,iou,hd95,nsd\n{STUDY['test'][0]},1,x,1,1,1\n")  # type: ignore[index]
    with pytest.raises(NnsslError, match="damaged or edited"):
        read_results(tmp_path)
    write_json([], cell / "cell.json")
    with pytest.raises(NnsslError, match="is no record of a training"):
        record_of(cell)


def test_an_import_report_of_another_form(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset500_Pool"
    for content, said in (
        ({"nnssl_import": 2, "cases": {}}, "update nnssl"),
        ({"nnssl_import": 1, "cases": ["a"]}, "no report of nnssl_import"),
        ({"nnssl_import": 1, "cases": {"a": 1}}, "no report of nnssl_import"),
        ([], "no report of nnssl_import"),
    ):
        write_json(content, folder / "import_report.json")
        with pytest.raises(NnsslError, match=said):
            open_pool(tmp_path, 500, None)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """The error of a write into an open file does not."""
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "a.json"), Path("/dev/full").open("w") as file:
        file.write("x")
        file.flush()
    said = str(user_error(caught.value))
    assert f"cannot write {tmp_path / 'a.json'}: the disk is full (" in said
    assert "MB free" in said
    assert not list(tmp_path.iterdir())


def test_an_error_of_a_library_keeps_its_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^its own words$"), atomic_path(tmp_path / "a.json"):
        raise OSError("its own words")


def test_of_an_unknown_file_only_the_reason_is_said() -> None:
    assert str(user_error(OSError(errno.ENOSPC, "x"))) == "cannot write a file: the disk is full"
