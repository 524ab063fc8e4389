"""Commands, flags, settings and keys of study files that users have in their scripts. None goes without a word."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from nnssl.trainers.finetune_settings import FinetuneSettings
from nnssl.trainers.run_config import RunConfig
from pydantic import BaseModel

from nnssl.evaluate.study.spec import Classification, Initialisation, StudyConfig
from nnssl.methods import get_method, method_names
from tests.conftest import REPOSITORY

KEPT = Path(__file__).parent / "commands.txt"
UPDATE = (
    "If something is new, add its lines to tests/keeping/commands.txt:\n  python -m tests.keeping.test_commands > "
    "tests/keeping/commands.txt\nA command, flag or key that goes, or gets another name, must first be deprecated: it works "
    "with a warning for at least one minor version, and stands in documentation/reference/compatibility.md."
)


def commands() -> Iterator[str]:
    """`nnssl_study run --flag` for every command, its subcommands and their arguments."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    for name, module in re.findall(r'^(nnssl_\w+) = "([\w.]+):main"$', text, re.MULTILINE):
        build = getattr(importlib.import_module(module), "build_parser", None)
        yield name
        if build is not None:
            yield from _arguments(name, build())


def _arguments(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub, inner in action.choices.items():
                yield f"{name} {sub}"
                yield from _arguments(f"{name} {sub}", inner)
        elif action.option_strings:
            yield from (f"{name} {flag}" for flag in action.option_strings)
            yield from (f"{name} {action.option_strings[0]} {choice}" for choice in action.choices or ())
        else:
            yield f"{name} <{action.dest}>"


def settings() -> Iterator[str]:
    """`nnssl_pretrain --set lr` for the settings of a run, `nnssl_pretrain -m METHOD --set ...` for the methods' own."""
    yield from _keys("nnssl_pretrain --set ", RunConfig, {"method", "options"})
    for name in method_names():
        yield from _keys(f"nnssl_pretrain -m {name} --set ", get_method(name).Config)


def keys_of_files() -> Iterator[str]:
    """`study.yaml counts`, `study.yaml inits.NAME.lr`, `study.yaml classify.target`, `PLANS.json nnssl.head`."""
    yield from _keys("study.yaml ", StudyConfig)
    yield from _keys("study.yaml inits.NAME.", Initialisation)
    yield from _keys("study.yaml classify.", Classification)
    yield from _keys("PLANS.json nnssl.", FinetuneSettings)


def _keys(before: str, model: type[BaseModel], but: Collection[str] = ()) -> Iterator[str]:
    for key, field in model.model_fields.items():
        if key not in but:
            yield f"{before}{key}"
            yield from (f"{before}{key}={choice}" for choice in _choices(field.annotation))


def _choices(annotation: object) -> Iterator[str]:
    """Words that a setting may be; of `Literal["a", "b"] | None`: a, b."""
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    else:
        for part in get_args(annotation):
            yield from _choices(part)


def everything() -> set[str]:
    return {*commands(), *settings(), *keys_of_files()}


def test_no_command_or_flag_has_gone_and_none_is_unrecorded() -> None:
    kept, there = set(KEPT.read_text(encoding="utf-8").split("\n")) - {""}, everything()
    assert not kept - there, f"gone: {sorted(kept - there)}\n{UPDATE}"
    assert not there - kept, f"not recorded: {sorted(there - kept)}\n{UPDATE}"


if __name__ == "__main__":
    print("\n".join(sorted(everything())))
