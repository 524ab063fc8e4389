"""Work that is shared out, stopped and continued gives what one uninterrupted call gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from nnssl.planners.shards import Shard

from nnssl.data.store import open_case
from nnssl.errors import NnsslError
from tests.conftest import blobs, make_raw, run_command, write_image


def plan(*arguments: str) -> int:
    size = () if "--only_pp" in arguments else ("--size", "S")
    return run_command("plan_and_preprocess", "-d", "902", *size, "-np", "1", *arguments)


def folder(root: Path) -> Path:
    return root / "preprocessed" / "Dataset902_Pool"


def everything(root: Path) -> dict[str, object]:
    """What a later command reads: fingerprint, plans, index, and the stored voxels and body positions."""
    base = folder(root)
    content: dict[str, object] = {
        name: json.loads((base / name).read_text())
        for name in ("dataset_fingerprint.json", "nnsslPlans.json", "nnsslPlans_3d_fullres_pool.json")
    }
    for path in sorted((base / "nnsslPlans_3d_fullres").glob("*.b2nd")):
        content[path.name] = open_case(path)[...].tolist()
    for path in sorted((base / "nnsslPlans_3d_fullres").glob("*.npy")):
        content[path.name] = np.load(path).tolist()
    return content


@pytest.mark.slow
def test_shards_and_their_merge_give_what_one_call_gives(nnunet_folders: Path) -> None:
    pool = make_raw(nnunet_folders / "raw", "Dataset902_Pool", 5, 0)
    (pool / "imagesTr" / "broken_0000.nii.gz").write_bytes(b"not an image")
    assert plan("-c", "3d_fullres") == 0
    whole = everything(nnunet_folders)
    shutil.rmtree(folder(nnunet_folders))
    for i in range(2):
        assert plan("--no_pp", "--shard", f"{i}/2") == 0
    assert not (folder(nnunet_folders) / "dataset_fingerprint.json").exists(), "only the merge may write it"
    assert plan("--no_pp") == 0
    for i in range(2):
        assert plan("--only_pp", "-c", "3d_fullres", "--shard", f"{i}/2") == 0
    assert not (folder(nnunet_folders) / "nnsslPlans_3d_fullres_pool.json").exists()
    assert plan("--only_pp", "-c", "3d_fullres") == 0
    assert everything(nnunet_folders) == whole
    report = json.loads((folder(nnunet_folders) / "nnsslPlans_report.json").read_text())
    assert list(report["skipped"]["fingerprint"]) == ["broken"]


@pytest.mark.slow
def test_a_lost_shard_is_made_up_for(nnunet_folders: Path, capfd: pytest.CaptureFixture) -> None:
    make_raw(nnunet_folders / "raw", "Dataset902_Pool", 4, 0)
    assert plan("--no_pp", "--shard", "1/2") == 0
    assert plan("--no_pp") == 0
    assert "2 of 4 cases were measured before" in capfd.readouterr().out
    assert plan("--only_pp", "-c", "3d_fullres", "--shard", "0/2") == 0
    stored = {p: p.stat().st_mtime_ns for p in (folder(nnunet_folders) / "nnsslPlans_3d_fullres").glob("*.b2nd")}
    assert plan("--only_pp", "-c", "3d_fullres") == 0
    assert "2 of 4 cases are up to date" in capfd.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in stored} == stored, "finished cases are not written again"
    assert len(json.loads((folder(nnunet_folders) / "nnsslPlans_3d_fullres_pool.json").read_text())["cases"]) == 4


@pytest.mark.slow
def test_only_what_changed_is_done_again(nnunet_folders: Path, capfd: pytest.CaptureFixture) -> None:
    raw = make_raw(nnunet_folders / "raw", "Dataset902_Pool", 4, 0)
    assert plan("-c", "3d_fullres") == 0
    data = folder(nnunet_folders) / "nnsslPlans_3d_fullres"
    before = open_case(data / "case_001.b2nd")[...]
    # a replaced case, a removed one, and one whose stored file was lost
    write_image(blobs(np.random.default_rng(9), (20, 24, 22))[0], raw / "imagesTr" / "case_001_0000.nii.gz")
    (raw / "imagesTr" / "case_002_0000.nii.gz").unlink()
    (data / "case_003.b2nd").unlink()
    capfd.readouterr()
    assert plan("-c", "3d_fullres") == 0
    assert "1 of 3 cases are up to date" in capfd.readouterr().out
    assert not np.array_equal(open_case(data / "case_001.b2nd")[...], before)
    assert {p.name for p in data.glob("*.b2nd") if "_seg" not in p.name} == {
        "case_000.b2nd",
        "case_001.b2nd",
        "case_003.b2nd",
    }
    assert not list(data.glob("case_002*"))
    assert plan("-c", "3d_fullres", "--clean") == 0
    assert "up to date" not in capfd.readouterr().out


@pytest.mark.slow
def test_a_half_written_case_is_not_taken_for_done(nnunet_folders: Path, capfd: pytest.CaptureFixture) -> None:
    """A process killed between a case's files leaves no record."""
    make_raw(nnunet_folders / "raw", "Dataset902_Pool", 3, 0)
    assert plan("-c", "3d_fullres") == 0
    record = folder(nnunet_folders) / "nnsslPlans_3d_fullres_records" / "case_001.json"
    record.write_text(record.read_text()[:20])
    assert plan("-c", "3d_fullres") == 0
    assert "2 of 3 cases are up to date" in capfd.readouterr().out


def test_a_fingerprint_from_before_a_check_is_not_blamed_on_the_files(
    nnunet_folders: Path, capfd: pytest.CaptureFixture
) -> None:
    make_raw(nnunet_folders / "raw", "Dataset902_Pool", 2, 1)
    assert plan("--no_pp") == 0
    path = folder(nnunet_folders) / "dataset_fingerprint.json"
    content = json.loads(path.read_text())
    files, _, checks = content["nnssl"]["source"].partition("-")
    assert checks.startswith("labels")
    for source, said in (
        (files, "nnssl checks more in Dataset902_Pool now"),
        (f"x-{checks}", "raw files of Dataset902"),
    ):
        path.write_text(json.dumps(content | {"nnssl": content["nnssl"] | {"source": source}}))
        assert plan("--only_pp") == 2
        err = capfd.readouterr().err
        assert said in err and "--no_pp" in err


def test_a_shard_of_nothing_planned_says_what_to_do(nnunet_folders: Path, capfd: pytest.CaptureFixture) -> None:
    make_raw(nnunet_folders / "raw", "Dataset902_Pool", 1, 0)
    assert plan("--only_pp", "--shard", "0/2") == 2
    assert "--no_pp first" in capfd.readouterr().err
    assert plan("--shard", "0/2") == 2
    assert "--no_pp" in capfd.readouterr().err


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "1/0", "/"])
def test_a_wrong_shard_is_one_clear_line(text: str) -> None:
    with pytest.raises(NnsslError, match="--shard"):
        Shard.parse(text)


def test_shards_share_out_everything_once() -> None:
    items = list(range(11))
    parts = [Shard(i, 4).mine(items) for i in range(4)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
