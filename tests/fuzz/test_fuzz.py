"""Damaged files of every kind: refused with a line, within memory and time, and nothing is left behind.

The fast part reads a few inputs of each kind. The slow part (`make test-slow`) reads thousands; it begins at a seed of its
own, which is printed, and can be repeated with NNSSL_FUZZ_SEED. An input that was not handled is kept in the test's
temporary folder, or below NNSSL_FUZZ_SAVE.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nnssl.errors import NnsslError
from tests.fuzz.harness import MEMORY, SECONDS, Target, fuzz
from tests.fuzz.images import image_targets
from tests.fuzz.tables import table_targets
from tests.fuzz.weights import weight_targets

TARGETS = [*image_targets(), *table_targets(), *weight_targets()]
FEW, MANY = 4, 60
SEED = int(os.environ.get("NNSSL_FUZZ_SEED") or time.time_ns() // 10**9 % 10**6)


def told(troubles: list) -> str:
    return "\n\n".join(f"{t.target}, seed {t.seed}, kept in {t.saved}:\n{t.what}" for t in troubles[:5])


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_a_few_damaged_files(target: Target, tmp_path: Path) -> None:
    troubles, _ = fuzz(target, range(FEW), tmp_path)
    assert not troubles, told(troubles)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_many_damaged_files(target: Target, tmp_path: Path) -> None:
    print(f"NNSSL_FUZZ_SEED={SEED}")
    troubles, refused = fuzz(target, range(SEED, SEED + MANY), tmp_path)
    assert not troubles, f"NNSSL_FUZZ_SEED={SEED}\n{told(troubles)}"
    assert refused or target.name in ("dicom", "dicom-text", "record", "fingerprint-piece"), (
        "no damage was noticed at all"
    )


def test_the_slow_part_is_large_enough() -> None:
    assert len(TARGETS) * MANY >= 2000


def crash(_: Path) -> None:
    os.kill(os.getpid(), 11)


def eat(_: Path) -> None:
    bytearray(2 * MEMORY)


def linger(_: Path) -> None:
    time.sleep(10 * SECONDS)


def litter(folder: Path) -> None:
    (folder / ".half.tmp").touch()
    raise NnsslError("refused")


def stumble(_: Path) -> None:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("read", "said"),
    [(crash, "SIGSEGV"), (eat, "MemoryError"), (linger, "hangs"), (litter, ".half.tmp"), (stumble, "KeyError")],
)
def test_the_harness_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: object, said: str) -> None:
    """What it is for; or a green run would prove nothing."""
    monkeypatch.setattr("tests.fuzz.harness.SECONDS", 1)
    target = Target("broken", lambda folder: (folder / "f").touch(), "f", lambda c, rng: c, read)  # type: ignore[arg-type]
    troubles, _ = fuzz(target, range(1, 3), tmp_path)
    assert [t.seed for t in troubles] == [1, 2]
    assert said in troubles[0].what
    assert (Path(troubles[0].saved) / "f").is_file()
