"""Files that earlier versions wrote are still read, and mean the same. The samples are never written anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnssl.trainers.checkpoint import check_format, restore
from nnssl.trainers.run_config import restored_run_config

from nnssl.data.checked import check_plans, read_fingerprint
from nnssl.data.checksums import check_sizes, damaged_files
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
VERSIONS = sorted(p for p in SAMPLES.iterdir() if p.is_dir())
each_version = pytest.mark.parametrize("folder", VERSIONS, ids=lambda p: p.name)


def test_there_are_samples() -> None:
    assert VERSIONS


@each_version
@pytest.mark.parametrize("name", ["encoder.pth", "encoder.safetensors"])
def test_encoder_files(folder: Path, name: str) -> None:
    found = read_weights(folder / name)
    written = write_samples.encoder().network_weights
    assert found.tensors
    assert all(torch.equal(value, written[key]) for key, value in found.tensors.items())
    assert found.provenance["method"] == "spark"
    state, report = complete_network(found, Target(write_samples.TINY, 1), "pretrained", 0)
    assert report.encoder_coverage == 1
    assert state
    assert any("digests recomputed" in line for line in verify_file(folder / name))


@each_version
def test_weights_for_nnunet(folder: Path) -> None:
    from nnssl.transfer.nnunet_init import verify_nnunet_init

    content = torch_files.load(folder / "nnunet_init.pth")
    verify_nnunet_init(folder / "nnunet_init.pth", content["network_weights"], Target(write_samples.TINY, 1))


@each_version
def test_checkpoints(folder: Path) -> None:
    pool = read_pool(folder, "nnsslPlans_3d_fullres")
    for path in sorted(folder.glob("checkpoint_*.pth")):
        content = torch_files.load(path)
        check_format(content, str(path))
        method = write_samples.method()
        for value in method.parameters():
            torch.nn.init.constant_(value, 7.0)
        optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
        state = restore(content, method, optimizer, None, pool, torch.device("cpu"))
        assert (state.epoch, state.step, state.history) == (1, 2, [{"epoch": 0, "train_loss": 1.0}])
        wanted = write_samples.method().state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in method.state_dict().items())
        assert restored_run_config(content["config"]).method == "denoising"


@each_version
def test_preprocessed_cases(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    pool = read_pool(copy, "nnsslPlans_3d_fullres")
    (case,) = pool.cases
    assert (case.shape, case.subject, case.body) == ((8, 10, 9), "p0", 2)
    check_sizes(pool)
    assert damaged_files(pool, 0) == []
    image, _ = CaseReader().crop(pool.image_path(0), (0, 0, 0), case.shape)
    assert np.allclose(image.ravel(), np.linspace(-1, 1, 720), atol=1e-3)
    positions = body_positions(pool, 0)
    assert positions is not None and positions.tolist() == [[3, 3, 3]] * 2
    assert read_splits(copy)


@each_version
def test_plans_fingerprints_and_settings(folder: Path) -> None:
    check_plans(read_json(folder / "nnsslPlans.json"), "plans")
    assert read_fingerprint(folder / "dataset_fingerprint.json")["nnssl"]["reader"] == "SimpleITKIO"
    assert restored_run_config(read_json(folder / "config.json")["config"]).method == "spark"


@each_version
def test_studies(folder: Path) -> None:
    assert recorded_study(folder / "study.json") == read_study(folder / "study.yaml")
    assert read_study(folder / "study.yaml").counts == [1, 2]


@each_version
def test_embeddings_and_classifiers(folder: Path) -> None:
    found = read_embedding(folder / "embedding.npz")
    assert found.features.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert found.cases == ("a", "b")
    model = read_model(folder / "model.pth")
    assert model.known.tolist() == ["a", "b"]
    assert model.answers(torch.zeros(1, 1, 1, 8, 16, 16), torch.device("cpu")).shape == (1, 2)


def test_the_script_writes_what_is_read(tmp_path: Path) -> None:
    """Every file of the newest folder is one that the script still makes."""
    write_samples.main(tmp_path)
    made = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    kept = {str(p.relative_to(VERSIONS[-1])) for p in VERSIONS[-1].rglob("*") if p.is_file()}
    assert made <= kept, "write the new files into a folder of a new version, and test them above"
