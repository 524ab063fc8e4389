from __future__ import annotations

from pathlib import Path

import pytest
from nnssl.trainers.run_config import make_run_config

from nnssl.errors import NnsslError


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("mask_ratio: 0.5\nlr: 0.01\nepochs: 7\noptions:\n  p_flip: 0.1\n")
    run = make_run_config("masked_region", {"epochs": 9, "lr": None}, file, ["lr=0.02", "block=2,4,4"])
    assert (run.epochs, run.lr) == (9, 0.02)
    assert run.options == {"mask_ratio": 0.5, "p_flip": 0.1, "block": [2, 4, 4]}


def test_scientific_notation_is_a_number() -> None:
    assert make_run_config("masked_region", {}, None, ["lr=1e-3"]).lr == 1e-3


def test_defaults_are_written_out() -> None:
    run = make_run_config("masked_region", {}, None, []).resolved(6)
    assert run.batch_size == 6
    assert run.optimizer == "adamw"
    assert run.options["mask_ratio"] == 0.6
    assert all(getattr(run, k) is not None for k in ("lr", "weight_decay", "schedule", "warmup", "clip"))


def test_wider_networks_learn_at_a_lower_rate_unless_one_is_given() -> None:
    run = make_run_config("masked_region", {}, None, [])
    narrow, wide = run.resolved(2, 16).lr, run.resolved(2, 64).lr
    assert wide == pytest.approx(narrow / 4)
    assert run.resolved(2, 8).lr == narrow, "but not a higher one"
    assert make_run_config("masked_region", {"lr": 2e-3}, None, []).resolved(2, 64).lr == 2e-3
    assert (
        make_run_config("byol", {}, None, []).resolved(2, 64).lr == make_run_config("byol", {}, None, []).resolved(2).lr
    )


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["mask_ratio=1.5"], "mask_ratio=1.5: input should be less than 1"),
        (["mask_ratio=lots"], "mask_ratio='lots'"),
        (["mask_rato=0.5"], "Did you mean 'mask_ratio'"),
        (["mask_ratio"], "key=value"),
        (["mask=stripes"], "mask='stripes'"),
        (["optimizer=adamm"], "optimizer='adamm'"),
        (["epochs=0"], "epochs=0"),
        (["lr=-1"], "lr=-1"),
        (["method=spark"], "another method"),
    ],
)
def test_bad_settings_are_one_clear_line(sets: list[str], said: str) -> None:
    with pytest.raises(NnsslError, match=said) as caught:
        make_run_config("masked_region", {}, None, sets)
    assert "\n" not in str(caught.value)


def test_bad_files_are_one_clear_line(tmp_path: Path) -> None:
    for text in ("- a\n- b\n", "a: [", "just words"):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(NnsslError, match="--config"):
            make_run_config("masked_region", {}, tmp_path / "x.yaml", [])
    with pytest.raises(NnsslError, match="does not exist"):
        make_run_config("masked_region", {}, tmp_path / "none.yaml", [])


HARD_TO_PARSE = {
    "5,000 digits": "9" * 5000,
    "5,000 digits to the base of 16": f"0x{'9' * 5000}",
    "deep": "[" * 5000,
    "no date": "2001-99-99",
    "itself": "&a [*a]",
    "tag": "!!x y",
}


@pytest.mark.parametrize("what", HARD_TO_PARSE)
def test_what_yaml_itself_stumbles_over_is_one_clear_line(tmp_path: Path, what: str) -> None:
    value = HARD_TO_PARSE[what]
    (tmp_path / "x.yaml").write_text(f"mask_ratio: {value}\n")
    for file, sets in ((None, [f"mask_ratio={value}"]), (tmp_path / "x.yaml", [])):
        with pytest.raises(NnsslError) as caught:
            make_run_config("masked_region", {}, file, sets)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 2000


@pytest.mark.parametrize("text", ["1: 2\n", "options: {1: 2}\n", "null: 2\n"])
def test_names_of_settings_are_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(NnsslError, match="is no name of a setting"):
        make_run_config("masked_region", {}, tmp_path / "x.yaml", [])
    with pytest.raises(NnsslError, match="is no name of a setting"):
        make_run_config("masked_region", {}, None, ["options={0.5: 1}"])


def test_part_and_single_value_of_one_name_do_not_clash() -> None:
    for sets in (["spark=3", "spark.mask_ratio=0.5"], ["spark.mask_ratio=0.5", "spark=3"], ["spark=3", "spark={a: 1}"]):
        with pytest.raises(NnsslError) as caught:
            make_run_config("masked_region", {}, None, sets)
        assert "unknown setting 'spark'" in str(caught.value)
