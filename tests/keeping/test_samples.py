"""Files that earlier versions wrote are still read, and mean the same. The samples are never written anew.

0.1.0.dev1 and 0.1.0.dev2 were written by the code of two commits before the first release: the first of all (2468ade), and
the last before checkpoints of format 2 and checksums (0f447a1).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnssl.trainers.checkpoint import check_format, restore
from nnssl.trainers.run_config import restored_run_config
from packaging.version import Version

from nnssl.data.checked import check_plans, read_fingerprint
from nnssl.data.checksums import FirstReads, check_sizes, damaged_files, has_checksums
from nnssl.data.pool import body_positions, read_pool, read_splits
from nnssl.data.store import CaseReader
from nnssl.evaluate.classify.model import read_model
from nnssl.evaluate.embedding import read_embedding
from nnssl.evaluate.study.spec import read_study, recorded_study
from nnssl.files import read_json
from nnssl.transfer import Target, torch_files
from nnssl.transfer.nnunet_init import complete_network
from nnssl.transfer.reading import read_weights
from nnssl.transfer.verify import verify_file
from tests.keeping import write_samples

SAMPLES = Path(__file__).parent / "samples"
VERSIONS = sorted((p for p in SAMPLES.iterdir() if p.is_dir()), key=lambda p: Version(p.name))


def each_version_of(*names: str) -> pytest.MarkDecorator:
    """Every version that wrote such files."""
    there = [pytest.param(v / n, id=f"{v.name}/{n}") for v in VERSIONS for n in names if (v / n).exists()]
    assert VERSIONS[-1] / names[0] in [p.values[0] for p in there], f"the newest version wrote no {names[0]}"
    return pytest.mark.parametrize("path", there)


def test_formats_of_checkpoints_are_what_they_were() -> None:
    """Each by the code of its time, not by dropping keys."""
    contents = [torch_files.load(v / "checkpoint_latest.pth") for v in VERSIONS]
    assert [c["nnssl_checkpoint"] for c in contents] == [1, 1, 2]
    assert ["trouble" in c for c in contents] == [False, False, True]


@each_version_of("encoder.pth", "encoder.safetensors")
def test_encoder_files(path: Path) -> None:
    found = read_weights(path)
    written = write_samples.encoder().network_weights
    assert found.tensors
    assert all(torch.equal(value, written[key]) for key, value in found.tensors.items())
    assert found.provenance["method"] == "spark"
    state, report = complete_network(found, Target(write_samples.TINY, 1), "pretrained", 0)
    assert report.encoder_coverage == 1
    assert state
    lines = verify_file(path)
    assert any("digests recomputed" in line for line in lines) == ("dev1" not in str(path)), "the first had no digests"


@each_version_of("nnunet_init.pth")
def test_weights_for_nnunet(path: Path) -> None:
    from nnssl.transfer.nnunet_init import verify_nnunet_init

    verify_nnunet_init(path, torch_files.load(path)["network_weights"], Target(write_samples.TINY, 1))


@each_version_of("checkpoint_latest.pth")
def test_checkpoints(path: Path) -> None:
    pool = read_pool(path.parent, "nnsslPlans_3d_fullres")
    content = torch_files.load(path)
    check_format(content, str(path))
    run = restored_run_config(content["config"])
    assert run.method == ("masked_region" if "dev1" in str(path) else "denoising")
    method = write_samples.method(run.method)
    for value in method.parameters():
        torch.nn.init.constant_(value, 7.0)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    state = restore(content, method, optimizer, None, pool, torch.device("cpu"))
    assert (state.epoch, state.step, state.history) == (1, 2, [{"epoch": 0, "train_loss": 1.0}])
    assert (state.rate, state.rollbacks, int(state.trouble.first)) == (1.0, 0, -1)
    wanted = write_samples.method(run.method).state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in method.state_dict().items())


@each_version_of("nnsslPlans_3d_fullres_pool.json")
def test_preprocessed_cases(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(path.parent, copy)
    pool = read_pool(copy, "nnsslPlans_3d_fullres")
    (case,) = pool.cases
    assert (case.shape, case.subject, case.body) == ((8, 10, 9), "" if "dev1" in str(path) else "p0", 2)
    check_sizes(pool)
    FirstReads(pool)(pool.image_path(0))
    assert has_checksums(case) == ("dev" not in path.parent.name)
    assert damaged_files(pool, 0) == []
    image, _ = CaseReader().crop(pool.image_path(0), (0, 0, 0), (8, 10, 9))
    assert np.allclose(image.ravel(), np.linspace(-1, 1, 720), atol=1e-3)
    positions = body_positions(pool, 0)
    assert positions is not None and positions.tolist() == [[3, 3, 3]] * 2


@each_version_of("splits_final.json")
def test_splits(path: Path) -> None:
    assert read_splits(path.parent)


@each_version_of("nnsslPlans.json")
def test_plans(path: Path) -> None:
    check_plans(read_json(path), "plans")


@each_version_of("dataset_fingerprint.json")
def test_fingerprints(path: Path) -> None:
    assert read_fingerprint(path)["nnssl"]["reader"] == "SimpleITKIO"


@each_version_of("config.json")
def test_settings(path: Path) -> None:
    methods = {"0.1.0.dev1": "masked_region", "0.1.0.dev2": "denoising", "0.1.0": "spark"}
    assert restored_run_config(read_json(path)["config"]).method == methods[path.parent.name]


@each_version_of("study.json")
def test_studies(path: Path) -> None:
    assert recorded_study(path) == read_study(path.with_name("study.yaml"))
    assert recorded_study(path).counts == [1, 2]


@each_version_of("embedding.npz")
def test_embeddings(path: Path) -> None:
    found = read_embedding(path)
    assert found.features.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert found.cases == ("a", "b")


@each_version_of("model.pth")
def test_classifiers(path: Path) -> None:
    model = read_model(path)
    assert model.known.tolist() == ["a", "b"]
    assert model.answers(torch.zeros(1, 1, 1, 8, 16, 16), torch.device("cpu")).shape == (1, 2)


def test_the_script_writes_what_is_read(tmp_path: Path) -> None:
    """Every file of the newest folder is one that the script still makes."""
    write_samples.main(tmp_path)
    made = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    kept = {str(p.relative_to(VERSIONS[-1])) for p in VERSIONS[-1].rglob("*") if p.is_file()}
    assert made <= kept, "write the new files into a folder of a new version, and test them above"
