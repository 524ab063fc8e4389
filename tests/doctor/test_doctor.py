"""The doctor finds what is wrong, says how to mend it, and changes nothing."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from nnssl.data.cpus import default_readers
from nnssl.doctor import devices, locks, machine, packages, variables
from nnssl.doctor.findings import Finding
from tests.conftest import REPOSITORY, run_command


def states(findings: object) -> dict[str, str]:
    return {f.about: f.state for f in findings}  # type: ignore[attr-defined]


def test_all_is_well_in_a_well_kept_place(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    found = [*variables.folders(), *variables.plugin(), *variables.threads(2)]
    assert set(states(found).values()) == {"ok"}
    assert not any(f.mend for f in found)
    assert not list(nnunet_folders.rglob("*doctor*")), "nothing is left behind"


def test_folders_that_are_unset_missing_or_read_only(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.setenv("nnUNet_preprocessed", "/nowhere/at/all")
    monkeypatch.setattr(variables, "_not_writable", lambda _: "Read-only file system")
    found = {f.about: f for f in variables.folders()}
    assert {f.state for f in found.values()} == {"problem"}
    assert "export nnUNet_raw=" in found["nnUNet_raw"].mend
    assert "mkdir -p /nowhere/at/all" in found["nnUNet_preprocessed"].mend
    assert "Read-only" in found["nnUNet_results"].says


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_writing_is_tried(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "denied" in variables._not_writable(tmp_path)


@pytest.mark.parametrize(
    ("value", "state"), [("", "warning"), ("/nowhere", "problem"), (str(REPOSITORY / "nnssl" / "nnunet_plugin"), "ok")]
)
def test_the_plug_in_variable(monkeypatch: pytest.MonkeyPatch, value: str, state: str) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", value)
    (finding,) = variables.plugin()
    assert finding.state == state
    assert ("nnssl_plugin_path" in finding.mend) == (state != "ok")


@pytest.mark.parametrize(("value", "state"), [("0", "problem"), ("x", "problem"), ("2", None), ("400", "warning")])
def test_workers_of_nnunet(monkeypatch: pytest.MonkeyPatch, value: str, state: str | None) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", value)
    assert states(variables.threads(2)).get("nnUNet_n_proc_DA") == state


def test_little_space_is_seen(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 2**28, "total": 2**40})
    monkeypatch.setattr(variables.shutil, "disk_usage", lambda _: usage)
    assert set(states(variables.space()).values()) == {"problem"}
    usage.free = 5 * 2**30
    assert states(variables.space())["disk of nnUNet_preprocessed"] == "warning"
    assert states(variables.space())["disk of nnUNet_raw"] == "ok"


def test_versions_that_do_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"torch": "2.9.1+cpu", "torchvision": "0.24.1+cu126", "nnunetv2": "2.6.2", "timm": "1.0.22"}
    monkeypatch.setattr(packages, "version", there.__getitem__)
    found = {f.about: f for f in packages.versions()}
    assert found["torch"].state == found["nnunetv2"].state == "problem"
    assert found["timm"].state == "ok"
    (mismatch,) = packages.torchvision()
    assert mismatch.state == "problem"
    assert "2.9.1+cpu and 0.24.1+cu126" in mismatch.says


def test_the_versions_asked_for_are_those_of_the_package() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    for name, oldest in packages.OLDEST.items():
        assert f'"{name}>={".".join(map(str, oldest))}' in text
    assert f'"torch>=2.6,!={".".join(map(str, packages.BAD_TORCH))}.*"' in text
    assert f'requires-python = ">={".".join(map(str, packages.PYTHON[0]))}"' in text


def test_an_import_that_fails_or_crashes_is_one_line() -> None:
    assert packages.run_python("pass") == ""
    assert packages.run_python("import no_such_module") == "ModuleNotFoundError: No module named 'no_such_module'"
    assert "ended with code" in packages.run_python("import os; os._exit(3)")


def test_a_quota_below_the_number_of_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    monkeypatch.setattr(machine, "QUOTAS", (tmp_path / "cpu.max", tmp_path / "none"))
    monkeypatch.setattr(machine, "usable_cpus", lambda: 16)
    first, _ = machine.processors()
    assert first.state == "warning"
    assert "--set" in first.mend and "workers=1" in first.mend
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert next(machine.processors()).state == "ok"


@pytest.mark.parametrize(
    ("free", "readers", "state", "workers"),
    [
        (2**26, 1, "problem", "workers=0"),
        (2**30, 8, "warning", "workers=4"),  # the container page: 1.8 GB
        (2**29, 8, "problem", "workers=2"),
        (2**30, 4, "ok", ""),
        (2**31, 8, "ok", ""),
    ],
)
def test_small_shared_memory(
    free: int, readers: int, state: str, workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "SHARED", tmp_path)
    monkeypatch.setattr(machine, "default_readers", lambda: readers)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free, "total": free}))
    (finding,) = machine.shared_memory()
    assert finding.state == state
    assert workers in finding.mend
    assert ("--shm-size" in finding.mend) == (state != "ok")


def test_the_readers_that_a_run_has_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, processes, readers in ((1, 1, 1), (4, 1, 3), (64, 1, 8), (16, 4, 3), (2, 4, 1)):
        monkeypatch.setattr("nnssl.data.cpus.usable_cpus", lambda cpus=cpus: cpus)
        assert default_readers(processes) == readers


def test_locks_are_tried(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = locks.locks()
    assert finding.state == "ok"
    assert not list((nnunet_folders / "results").iterdir())
    mounts = nnunet_folders / "mounts"
    monkeypatch.setattr(locks, "MOUNTS", mounts)
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/x {nnunet_folders} nfs rw,nolock,vers=3 0 0\n")
    (finding,) = locks.locks()
    assert finding.state == "warning"
    assert "nolock" in finding.says and "this machine only" in finding.says
    mounts.write_text(mounts.read_text() + f"server:/y {nnunet_folders}/results nfs rw,vers=4 0 0\n")
    assert next(locks.locks()).state == "ok", "another disk is mounted there"


@pytest.mark.parametrize("gives", ["an error", "it to everybody"])
def test_a_disk_whose_locks_do_not_work(gives: str, nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockf(*_: object) -> None:
        if gives == "an error":
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    (finding,) = locks.locks()
    assert finding.state == "warning"
    assert ("No locks available" if gives == "an error" else "two processes got the same one") in finding.says
    assert "flock" in finding.mend and "lockd" in finding.mend


@pytest.mark.parametrize("rival", ["import sys; sys.exit(4)", "raise OSError"])
def test_a_lock_that_could_not_be_tried_is_not_called_good(
    rival: str, nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_RIVAL", rival)
    (finding,) = locks.locks()
    assert finding.state == "warning" and "could not be tried" in finding.says


def test_reading_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CASE", (1, 20, 24, 24))
    monkeypatch.setattr(machine, "CROP", (16, 16, 16))
    (finding,) = machine.store_speed(tmp_path)
    assert "crops of 16x16x16 per second" in finding.says
    assert not list(tmp_path.iterdir())
    assert next(machine.store_speed(tmp_path / "none")).state == "problem"


def test_a_device_that_computes_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert states(devices.precision()) == {"bfloat16 on cpu": "ok"}
    from nnssl.trainers import self_check

    monkeypatch.setattr(self_check, "convolution_errors", lambda *_: {"the output": float("nan")})
    (finding,) = devices.precision()
    assert finding.state == "problem"
    assert "precision=float32" in finding.mend


def test_the_command(pretraining: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_results", str(pretraining / "results"))
    assert run_command("doctor", "--quick", "--json", "--data", "902") == 0
    found = [Finding(**f) for f in json.loads(capsys.readouterr().out)]
    whole = [f for f in found if f.about.startswith("data of Dataset902_Pool")]
    assert len(whole) == 2
    assert all(f.state == "ok" and "5 cases read" in f.says for f in whole)
    assert run_command("doctor", "--quick", "--data", "77") == 2
    assert "Datasets there" in capsys.readouterr().err
    monkeypatch.setenv("nnUNet_raw", "/nowhere")
    assert run_command("doctor", "--quick") == 1
    assert "PROBLEM nnUNet_raw: /nowhere is no folder" in capsys.readouterr().out


def test_a_flipped_byte_is_named(pretraining: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "preprocessed"
    shutil.copytree(pretraining / "preprocessed" / "Dataset902_Pool", copy / "Dataset902_Pool")
    path = copy / "Dataset902_Pool" / "nnsslPlans_3d_fullres" / "case_002.b2nd"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_preprocessed", str(copy))
        assert run_command("doctor", "--quick", "--data", "902") == 1
    out = capsys.readouterr().out
    assert f"{path} is not what was written (checksum)" in out
    assert out.count("PROBLEM data of") == 1
