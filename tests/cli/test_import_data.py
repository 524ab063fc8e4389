"""`nnssl_import`: wrong arguments, an interruption, and the way on to planning."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nnssl.cli.import_data import build_parser
from tests.cli.test_bad_input import error_line
from tests.conftest import REPOSITORY, make_raw, real_data, run_command, write_image


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for n in range(3):
        write_image(
            np.random.default_rng(n).integers(-900, 900, (12, 20, 20)).astype(np.int16), tmp_path / f"in/{n}.mha"
        )
    (tmp_path / "empty").mkdir()
    (tmp_path / "rubbish").mkdir()
    (tmp_path / "rubbish" / "a.nii.gz").write_bytes(b"")
    write_image(np.full((12, 20, 20), 3, np.int16), tmp_path / "rubbish" / "b.nii.gz")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("in", "-n", "P"), "--channel is needed: what does 0.mha show"),
        (("in", "--channel", "CT"), "-n NAME is needed"),
        (("in", "--channel", "CT", "-n", "a b"), "use letters"),
        (("in", "--channel", "CT,", "-n", "P"), "give a name like CT or MR"),
        (("in", "--channel", "CT,PET", "-n", "P"), "--channel names 2 channel(s), but 0.mha has 1"),
        (("-n", "P", "--channel", "CT"), "nothing to import"),
        (("nowhere", "-n", "P", "--channel", "CT"), "source nowhere does not exist"),
        (("empty", "-n", "P", "--channel", "CT"), "no image was found"),
        (("rubbish", "-n", "P", "--channel", "CT"), "every voxel has the same value (3)"),
        (("in", "-n", "P", "--channel", "CT", "--include", "*.nii"), "no image was found"),
        (("in", "-n", "P", "--channel", "CT", "--frames", "0"), "--frames 0: give 'all'"),
        (("in", "-n", "P", "--channel", "CT", "--orientation", "XYZ"), "three letters"),
        (("in", "-n", "P", "--channel", "CT", "-np", "0"), "at least 1"),
        (("in", "-n", "P", "--channel", "CT", "--link", "--copy"), "not allowed with"),
        (("in", "-n", "P", "--channel", "CT", "--mapping", "rubbish/a.nii.gz"), "is no mapping of nnssl_import"),
        (("in", "-n", "P", "--channel", "CT", "--mapping", "raw/map.csv"), "lies in nnUNet_raw"),
        (("in", "-n", "P", "--channel", "CT", "--pool", "7"), "--pool goes with --acdc"),
        (("in", "-n", "P", "--channel", "CT", "-d", "901"), "dataset 901 exists"),
        (("in", "-n", "P", "--channel", "CT", "-d", "901", "--add"), "--add works on datasets that nnssl_import made"),
        (("901", "-n", "P", "--channel", "A,B"), "--channel names 2 channel(s), but Dataset901_X has 1"),
    ],
)
def test_wrong_arguments(
    scans: Path, nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
    arguments: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(scans)
    make_raw(nnunet_folders / "raw", "Dataset901_X", 1, 0)
    before = sorted(p for p in scans.rglob("*"))
    number = () if "-d" in arguments else ("-d", "500")
    assert run_command("import_data", "-np", "1", *arguments, *number) == 2
    assert said in error_line(capsys)
    assert sorted(p for p in scans.rglob("*")) == before


def test_every_option_is_on_the_page() -> None:
    page = (REPOSITORY / "documentation" / "reference" / "commands.md").read_text(encoding="utf-8")
    section = page.partition("\n## nnssl_import\n")[2].partition("\n## ")[0]
    for action in build_parser()._actions:
        for option in action.option_strings:
            if option not in ("-h", "--help", "--debug", "--version"):
                assert f"`{option}" in section, option


@pytest.mark.slow
def test_interruption_leaves_nothing(scans: Path, nnunet_folders: Path) -> None:
    raw = nnunet_folders / "raw"
    for n in range(40):
        write_image(
            np.random.default_rng(n).integers(-900, 900, (60, 128, 128)).astype(np.int16), scans / f"in/l{n}.mha"
        )
    command = [
        sys.executable,
        "-m",
        "nnssl.cli.import_data",
        "in",
        "-n",
        "P",
        "--channel",
        "CT",
        "-d",
        "500",
        "-np",
        "1",
    ]
    process = subprocess.Popen(command, cwd=scans, env=os.environ, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(raw.glob(".Dataset500_P.import-*/new/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not list(raw.iterdir())


@pytest.mark.parametrize("kind", ["mha", "nii.gz"])
def test_full_disk_is_no_reason_to_leave_images_out(scans: Path, nnunet_folders: Path, kind: str) -> None:
    """Here: a limit on the size of files that the larger image exceeds."""
    rng = np.random.default_rng(0)
    write_image(rng.integers(-900, 900, (40, 64, 64)).astype(np.int16), scans / "in" / f"large.{kind}")
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); "
    code = limit + "from nnssl.cli.import_data import main; main()"
    command = [sys.executable, "-c", code, "in", "-n", "P", "--channel", "CT", "-d", "500", "-np", "1"]
    done = subprocess.run(command, cwd=scans, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "is the disk full" in done.stderr
    assert not list((nnunet_folders / "raw").iterdir())


def test_folder_that_cannot_be_written_to(
    scans: Path, nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("needs a folder where nobody may write: Linux' /proc")
    monkeypatch.setenv("nnUNet_raw", "/proc")
    assert run_command("import_data", str(scans / "in"), "-n", "P", "--channel", "CT", "-d", "500") == 2
    assert "nnUNet_raw=/proc cannot be written to" in error_line(capsys)


@pytest.mark.data
@pytest.mark.slow
def test_odd_files_become_a_pool_that_can_be_planned(nnunet_folders: Path, capfd: pytest.CaptureFixture) -> None:
    source = str(real_data("odd"))
    assert run_command("import_data", source, "-d", "500", "-n", "Odd", "--channel", "any", "-np", "2") == 0
    out = capfd.readouterr().out
    assert "looks like a label map" in out
    assert "Git LFS pointer" in out
    assert run_command("plan_and_preprocess", "-d", "500", "--size", "S", "-np", "2", "--no_pp") == 0
    assert (nnunet_folders / "preprocessed" / "Dataset500_Odd" / "nnsslPlans.json").is_file()
    assert "skipped" not in capfd.readouterr().out  # what the import took the fingerprint takes too
