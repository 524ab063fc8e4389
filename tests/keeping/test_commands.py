"""Commands and flags that users have in their scripts. None goes without a word."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPOSITORY

KEPT = Path(__file__).parent / "commands.txt"
UPDATE = (
    "If something is new, add its lines to tests/keeping/commands.txt:\n  python -m tests.keeping.test_commands > "
    "tests/keeping/commands.txt\nA command or flag that goes, or gets another name, must first be deprecated: it works with "
    "a warning for at least one minor version, and stands in documentation/reference/compatibility.md."
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


def test_no_command_or_flag_has_gone_and_none_is_unrecorded() -> None:
    kept, there = set(KEPT.read_text(encoding="utf-8").split("\n")) - {""}, set(commands())
    assert not kept - there, f"gone: {sorted(kept - there)}\n{UPDATE}"
    assert not there - kept, f"not recorded: {sorted(there - kept)}\n{UPDATE}"


if __name__ == "__main__":
    print("\n".join(sorted(set(commands()))))
