"""JSON that people and programs write is checked before it is used: the first wrong value is one line that names it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnssl.data.checked import (
    check_configuration,
    check_description,
    check_plans,
    check_pool_index,
    check_splits,
    read_fingerprint,
)
from nnssl.errors import NnsslError
from nnssl.files import read_json
from tests.fuzz.images import DESCRIPTION, PLANS
from tests.fuzz.tables import FINGERPRINT

INF = float("inf")
POOL = {
    "format": 1,
    "cases": [{"name": "a", "folder": "f", "shape": [8, 8, 8], "labelled": False, "of_a_later_version": 1}],
}
SPLITS = [{"train": ["a"], "val": ["b"]}]


def changed(content: Any, path: str, value: Any) -> Any:
    """A copy with one value replaced; `path` is keys and positions with dots between."""
    content = copy.deepcopy(content)
    *way, last = path.split(".")
    at = content
    for key in way:
        at = at[key if isinstance(at, dict) else int(key)]
    at[last if isinstance(at, dict) else int(last)] = value
    return content


def of_pool(content: Any) -> Any:
    return check_pool_index(content, "it")


def of_plans(content: Any) -> Any:
    return check_plans(content, "it")


def of_dataset(content: Any) -> Any:
    return check_description(content, "it")


def of_splits(content: Any) -> Any:
    return check_splits(content, "it")


SETTINGS = "configurations.3d_fullres"


@pytest.mark.parametrize(
    ("check", "content", "path", "value", "said"),
    [
        (of_plans, PLANS, "dataset_name", "../../x", "plain name"),
        (of_plans, PLANS, "plans_name", "a\0b", "plain name"),
        (of_plans, PLANS, "transpose_forward", [0, 0, 1], r"\[0, 0, 1\] is no order of three axes"),
        (of_plans, PLANS, "transpose_backward", [0, 1], "transpose_backward"),
        (of_plans, PLANS, "configurations", {}, "configurations"),
        (of_plans, PLANS, f"{SETTINGS}.patch_size", [8, 10**9, 8], "patch_size"),
        (of_plans, PLANS, f"{SETTINGS}.patch_size", [8, "16", 8], "must be a whole number"),
        (of_plans, PLANS, f"{SETTINGS}.patch_size", [8, 16.0, 8], "must be a whole number"),
        (of_plans, PLANS, "transpose_forward", [0, "1", 2], "transpose_forward.*must be a whole number"),
        (of_plans, PLANS, "transpose_backward", [0, 1.0, 2], "transpose_backward.*must be a whole number"),
        (of_plans, PLANS, f"{SETTINGS}.spacing", [1.0, INF, 1.0], "spacing"),
        (of_plans, PLANS, f"{SETTINGS}.spacing", [1.0, 0.0, 1.0], "spacing"),
        (of_plans, PLANS, f"{SETTINGS}.batch_size", True, "must be a whole number"),
        (of_plans, PLANS, f"{SETTINGS}.inherits_from", "3d_fullres", "inherits from '3d_fullres'"),
        (of_plans, PLANS, f"{SETTINGS}.inherits_from", "nowhere", "inherits from 'nowhere'"),
        (of_plans, PLANS, "foreground_intensity_properties_per_channel.0.mean", INF, "intensity properties"),
        (of_pool, POOL, "cases.0.name", "", "plain name"),
        (of_pool, POOL, "cases.0.shape", [8, 8], "shape"),
        (of_pool, POOL, "cases.0.body", -1, "body"),
        (of_pool, POOL, "cases", "all", "cases"),
        (of_splits, SPLITS, "0.val", "b", "val"),
        (of_splits, SPLITS, "0", [], "damaged"),
        (of_dataset, DESCRIPTION, "channel_names", {}, "channel_names"),
        (of_dataset, DESCRIPTION, "channel_names.0", 0, "channel_names.0: 0 is no name of a channel"),
        (of_dataset, DESCRIPTION, "dataset", {"a": {"images": []}}, "dataset.a lists no images"),
        (of_dataset, DESCRIPTION, "dataset", {"a": {"images": ["x\0y"]}}, "dataset.a lists no images"),
        (of_dataset, DESCRIPTION, "dataset", {"a": {"images": ["x"], "label": 3}}, "label of dataset.a"),
        (of_dataset, DESCRIPTION, "dataset", {"../a": {"images": ["x"]}}, "plain name"),
    ],
)
def test_a_wrong_value_is_named(check: Callable[[Any], Any], content: Any, path: str, value: Any, said: str) -> None:
    assert check(copy.deepcopy(content)) == content
    with pytest.raises(NnsslError, match=f"^it.*{said}") as caught:
        check(changed(content, path, value))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_configuration_must_have_what_training_needs() -> None:
    whole = PLANS["configurations"]["3d_fullres"]  # type: ignore[index]
    check_configuration(whole, "it")
    for key in ("patch_size", "spacing", "architecture", "data_identifier"):
        with pytest.raises(NnsslError, match=f"it is damaged: it has no '{key}'"):
            check_configuration({**whole, key: None}, "it")
    with pytest.raises(NnsslError, match="more spacings than axes"):
        check_configuration({**whole, "patch_size": [8, 8]}, "it")


@pytest.mark.parametrize("value", [[[1.0, 1.0]], [[1.0, -1.0, 1.0]], [["1", 1.0, 1.0]], "x"])
def test_a_damaged_fingerprint_is_named(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps(FINGERPRINT))
    assert read_fingerprint(path) == FINGERPRINT
    path.write_text(json.dumps({**FINGERPRINT, "spacings": value}))
    with pytest.raises(NnsslError, match=r"f\.json is damaged: spacings"):
        read_fingerprint(path)


def test_nesting_without_an_end_is_refused(tmp_path: Path) -> None:
    """Python's parser gives up on it."""
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(NnsslError, match="not valid JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"{'a': 1}", b'{"a": 1}}'])
def test_what_is_no_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(NnsslError, match=r"a\.json is damaged: not valid JSON") as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)
