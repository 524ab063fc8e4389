"""Reading processes that die and preprocessed files that are damaged: one line, nothing lost, and `--c` goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from nnssl.trainers.checkpoint import LATEST

from nnssl.transfer import torch_files
from tests.reliability.harness import Nursery, arguments_for, same_runs

pytestmark = pytest.mark.slow
METHOD = "denoising"


def test_a_killed_reader(nursery: Nursery) -> None:
    """The run leaves as for a lost process; continued without readers, it ends like one that never had any."""
    done = nursery.run(*arguments_for(METHOD, "unhurt", workers=0))
    assert done.code == 0, done.text
    arguments = arguments_for(METHOD, "hit", workers=1)
    hit = nursery.run(*arguments, kill_reader=4)
    assert hit.code == 3, hit.text
    assert "Traceback" not in hit.text
    (line,) = [text for text in hit.text.splitlines() if "error" in text.lower()]
    assert line.startswith("error: a reading process was killed, as the system does when memory runs out")
    assert "--c goes on" in line and "--set workers=0" in line
    folder = nursery.folder(METHOD, "hit")
    torch_files.verify(folder / LATEST)
    done = nursery.run(*[text.replace("workers=1", "workers=0") for text in arguments], "--c")
    assert done.code == 0, done.text
    folders = nursery.folder(METHOD, "unhurt"), folder
    for each in folders:
        shutil.rmtree(each / "snapshots")  # one is from before the death, with the settings of that time
    same_runs(*folders)


@pytest.fixture
def damaged(nursery: Nursery, planned: Path, tmp_path: Path) -> Iterator[Path]:
    """The image of a case, with one flipped bit, in a copy of the preprocessed folder."""
    link = nursery.root / "preprocessed"
    link.unlink()
    shutil.copytree(planned / "preprocessed", link)
    path = min(p for p in (link / "Dataset902_Pool").rglob("case_00[0-9].b2nd") if "3d_fullres" in p.parent.name)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 4]) + whole[len(whole) // 2 + 1 :])
    yield path
    shutil.rmtree(link)
    link.symlink_to(planned / "preprocessed")


@pytest.mark.parametrize(("workers", "cache"), [(0, "none"), (1, "none"), (1, "auto")])
def test_a_flipped_bit_in_a_preprocessed_file(nursery: Nursery, damaged: Path, workers: int, cache: str) -> None:
    name = f"flip_{workers}_{cache}"
    arguments = arguments_for(METHOD, name, workers=workers, cache=cache)
    done = nursery.run(*arguments)
    assert done.code == 2, done.text
    assert "Traceback" not in done.text
    (line,) = [text for text in done.text.splitlines() if text.startswith("error")]
    assert f"{damaged.name} is not what was written (checksum)" in line
    assert "nnssl_doctor --data" in line and "nnssl_plan_and_preprocess" in line and "--c" in line
