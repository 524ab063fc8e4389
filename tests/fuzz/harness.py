"""Reads damaged files in a process of its own, with a limit on memory and time, and says what went wrong.

What a damaged file may do is raise NnsslError or Failure with a line for the user. What it may not: end the process, take
more time or memory than the limits, raise anything else, or leave a half-written file behind.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import shutil
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.data.parallel import Failure
from nnssl.errors import NnsslError
from tests.fuzz.mutate import Mutation

MEMORY = 1024 * 2**20
"""Bytes that one reading may take beyond what the process had."""
SECONDS = 20
LONGEST = 2000
MOST_LINES = 20
"""Of a message; a load report has a line for each part of a network."""
WHOLE = 0
"""Seed of the file as it was written: that must be read."""
OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "llocate memory", "Unable to allocate", "not enough memory")


@dataclass(frozen=True)
class Target:
    """Something of ours that reads a file.

    Attributes:
        name: for reports.
        make: writes whole files into a folder.
        file: the one of them that is damaged.
        damage: how.
        read: reads the folder as the product does.
    """

    name: str
    make: Callable[[Path], None]
    file: str
    damage: Mutation
    read: Callable[[Path], Any]


@dataclass(frozen=True)
class Trouble:
    """An input that was not handled, and where a copy of it lies."""

    target: str
    seed: int
    what: str
    saved: str


def fuzz(target: Target, seeds: range, folder: Path) -> tuple[list[Trouble], int]:
    """Read one damaged input for each seed; seed 0 is the file undamaged.

    Args:
        target: what reads.
        seeds: the input is a function of the target and its seed.
        folder: for the files; inputs that were not handled stay in `folder/failed`, or below NNSSL_FUZZ_SAVE.

    Returns:
        What was not handled, and how many inputs were refused with a message.
    """
    sample = folder / "sample"
    if not sample.is_dir():
        sample.mkdir(parents=True)
        target.make(sample)
    troubles: list[Trouble] = []
    refused = 0
    done = 0
    while done < len(seeds):
        answers, ending = _in_child(target, seeds[done:], sample, folder)
        for answer in answers:
            refused += bool(answer["said"])
            if answer["wrong"]:
                troubles.append(_keep(target, answer["seed"], answer["wrong"], sample, folder))
        done += len(answers)
        if ending and done < len(seeds):
            troubles.append(_keep(target, seeds[done], ending, sample, folder))
            done += 1
    return troubles, refused


def damaged(target: Target, seed: int, sample: Path) -> bytes:
    """The damaged file of a seed."""
    rng = np.random.default_rng([seed, *target.name.encode()])
    return target.damage((sample / target.file).read_bytes(), rng)


def _in_child(target: Target, seeds: range, sample: Path, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """What a child process says of each input, and how it ended: empty, or the signal that took it down."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(here)
        code = 1
        try:
            with os.fdopen(there, "w") as answers:
                _read_all(target, seeds, sample, folder, answers)
            code = 0
        except BaseException:  # the child must never go on as a second test run
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(there)
    with os.fdopen(here) as lines:
        found = [json.loads(line) for line in lines if line.endswith("\n")]
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return (
            found,
            f"hangs (over {SECONDS} s)" if number == signal.SIGALRM else f"dies of {signal.Signals(number).name}",
        )
    return found, "" if os.WEXITSTATUS(status) == 0 else "ends the process"


def _read_all(target: Target, seeds: range, sample: Path, folder: Path, answers: Any) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.disable()  # a crash is what is looked for
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # readers print
    os.dup2(1, 2)
    for seed in seeds:
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(sample, work)
        if seed != WHOLE:
            (work / target.file).write_bytes(damaged(target, seed, sample))
        signal.alarm(SECONDS)
        said, wrong = "", ""
        try:
            target.read(work)
        except (NnsslError, Failure) as error:
            said = str(error)
            wrong = _ill_said(said)
        except Exception:  # that is what we look for
            wrong = traceback.format_exc(limit=-6)
        signal.alarm(0)
        if seed == WHOLE and said:
            wrong = f"a whole file is refused: {said}"
        left = [p.name for p in work.rglob(".*") if p.is_file()]
        if left and not wrong:
            wrong = f"leaves {', '.join(left)} behind"
        answers.write(json.dumps({"seed": seed, "said": said[:300], "wrong": wrong}) + "\n")
        answers.flush()


def _ill_said(text: str) -> str:
    if not text.strip():
        return "an error without a word"
    if any(sign in text for sign in OUT_OF_MEMORY):
        return f"memory is not bounded: {text[:300]}"
    if "Traceback" in text or text.count("\n") > MOST_LINES or len(text) > LONGEST:
        return f"the message is no line: {text[:300]}"
    return ""


def _keep(target: Target, seed: int, what: str, sample: Path, folder: Path) -> Trouble:
    place = Path(os.environ.get("NNSSL_FUZZ_SAVE") or folder / "failed") / f"{target.name}-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(sample, place)
    if seed != WHOLE:
        (place / target.file).write_bytes(damaged(target, seed, sample))
    return Trouble(target.name, seed, what, str(place))
