"""Whatever stands behind `--set`, in a settings file or in a study file: a valid setting or one line that says why not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from nnssl.trainers.run_config import RunConfig, make_run_config, restored_run_config

from nnssl.errors import NnsslError
from nnssl.evaluate.study.spec import StudyConfig, read_study
from nnssl.methods import get_method, method_names
from tests.fuzz.tables import STUDY

NUMBERS = st.one_of(st.integers(), st.integers(-3, 40), st.floats(), st.floats(0, 1))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.dates(), st.binary(max_size=4))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | NUMBERS, inner, max_size=3),
    max_leaves=8,
)
KEYS = {name: sorted({*RunConfig.model_fields, *get_method(name).Config.model_fields}) for name in method_names()}


def names_of(method: str) -> st.SearchStrategy[str]:
    """A setting's name, mostly; `options`, and what goes into a part of a sum."""
    return st.one_of(
        st.sampled_from(KEYS[method]),
        st.sampled_from(["options", "spark.mask_ratio", ".", "seed."]),
        st.text(max_size=6),
    )


def valid_or_one_line(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except NnsslError as error:
        text = str(error)
        assert text.strip() and "\n" not in text and len(text) < 5000, text
        return None


METHODS = ("spark", "masked_region", "byol", "swav")


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_set(method: str, data: st.DataObject) -> None:
    value = st.one_of(st.text(max_size=12), VALUES.map(lambda v: yaml.safe_dump(v, default_flow_style=True)))
    texts = data.draw(st.lists(st.tuples(names_of(method), value).map("=".join), max_size=3))
    run = valid_or_one_line(lambda: make_run_config(method, {}, None, texts))
    if run is not None:
        assert restored_run_config(run.model_dump()) == run
        assert valid_or_one_line(lambda: run.resolved(2)) is not None, "what is accepted can be used"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "file.yaml"


@given(data=st.data())
def test_files_of_settings(place: Path, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(METHODS))
    mapping = st.dictionaries(names_of(method) | NUMBERS, VALUES, max_size=4)
    place.write_text(
        data.draw(st.one_of(st.text(max_size=40), mapping.map(yaml.safe_dump), VALUES.map(yaml.safe_dump)))
    )
    valid_or_one_line(lambda: make_run_config(method, {}, place, []))


@given(data=st.data())
def test_study_files(place: Path, data: st.DataObject) -> None:
    study: Any = copy.deepcopy(STUDY)
    for _ in range(data.draw(st.integers(0, 2))):
        at, key = study, data.draw(st.sampled_from(sorted(StudyConfig.model_fields)) | st.text(max_size=5))
        if key == "inits" and data.draw(st.booleans()):
            at, key = (
                study["inits"]["ours"],
                data.draw(st.sampled_from(["init", "lr", "schedule", "warmup", "head", "x"])),
            )
        at[key] = data.draw(VALUES)
        if not isinstance(study["inits"], dict) or not isinstance(study["inits"].get("ours"), dict):
            break
    place.write_text(data.draw(st.sampled_from([yaml.safe_dump(study)]) | st.text(max_size=40)))
    valid_or_one_line(lambda: read_study(place))
