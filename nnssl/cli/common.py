"""What the commands share: argument types, logging, and errors as one clear line."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from nnssl import __version__
from nnssl.disk import user_error
from nnssl.errors import NnsslError
from nnssl.evaluate import LARGEST_SEED

PIPE_CLOSED = 141
"""Exit code, as of a process that SIGPIPE ended."""


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults in the help, and descriptions as they are written."""


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """An argument parser with the flags that every command has."""
    p = argparse.ArgumentParser(prog=name, description=description, formatter_class=_Help, allow_abbrev=False)
    p.add_argument("--debug", action="store_true", help="show the traceback of an error and more of the log")
    p.add_argument("--version", action="version", version=f"nnssl {__version__}")
    return p


def add_settings(p: argparse.ArgumentParser, help: str) -> None:
    """`--set NAME=VALUE`, as often as one likes; their list is `sets`."""
    p.add_argument("--set", dest="sets", action="append", default=[], metavar="K=V", help=help)


def run(main: Callable[[argparse.Namespace], int | None], arguments: argparse.Namespace) -> None:
    """Run a command's main function and leave the process with its exit code.

    Errors that the user can mend are one line on stderr and exit code 2; `--debug` shows the traceback instead.
    """
    logging.basicConfig(
        level=logging.DEBUG if arguments.debug else logging.INFO, format="%(message)s", stream=sys.stdout, force=True
    )
    for noisy in ("matplotlib", "PIL", "numba", "asyncio", "blosc2", "numexpr"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not arguments.debug:
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
    try:
        code = main(arguments)
    except NnsslError as error:
        if arguments.debug:
            raise
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more on leaving
        sys.exit(PIPE_CLOSED)
    except Exception as error:
        known = user_error(error)  # torch and others put an error of their own over the disk's
        if arguments.debug or known is None:
            raise
        sys.stdout.flush()
        print(f"error: {known}", file=sys.stderr)
        sys.exit(known.exit_code)
    sys.exit(code or 0)


def positive_int(text: str) -> int:
    """argparse type: an integer of at least 1."""
    return int(_number(text, 1, whole=True))


def natural(text: str) -> int:
    """argparse type: an integer of at least 0."""
    return int(_number(text, 0, whole=True))


def seed(text: str) -> int:
    """argparse type: a seed that also scikit-learn takes."""
    value = natural(text)
    if value > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"'{text}' is not a seed from 0 to {LARGEST_SEED}")
    return value


def check_folder(path: Path) -> None:
    """Refuse an -o that cannot become a folder, before there is work to lose.

    Raises:
        NnsslError: it, or a folder above it, is a file.
    """
    there = next((p for p in (path, *path.parents) if p.exists()), path)
    if there.exists() and not there.is_dir():
        raise NnsslError(f"-o {path}: {there} is a file, and no folder: choose another place with -o")


def positive_float(text: str) -> float:
    """argparse type: a finite number above 0."""
    return _number(text, 0, whole=False)


def share(text: str) -> float:
    """argparse type: a number from 0 to 1."""
    value = 0.0 if text.strip() in ("0", "0.0") else _number(text, 0, whole=False)
    if value > 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share from 0 to 1")
    return value


def _number(text: str, least: int, whole: bool) -> float:
    wanted = f"a whole number of at least {least}" if whole else "a number above 0"
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not {wanted}") from None
    if not math.isfinite(value) or value < least or (not whole and value == 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not {wanted}")
    return value
