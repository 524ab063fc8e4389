"""`nnssl_inspect FILE --verify`: what can be recomputed is, and what is wrong is named."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.transfer import EncoderFile, read_encoder, write_encoder
from nnssl.transfer.digests import changed, digests_of, tensor_digest
from nnssl.transfer.verify import verify_file
from tests.conftest import run_command, run_folder
from tests.transfer.foreign_files import adaptation_plan, nnunet_checkpoint, openmind, plain_conv, spark, trained_unet
from tests.transfer.test_development_branch import packed


@pytest.fixture(params=["encoder.pth", "encoder.safetensors"])
def written(request: pytest.FixtureRequest, unet_3d: dict, tmp_path: Path) -> Path:
    write_encoder(packed(trained_unet(unet_3d), unet_3d, 1), tmp_path / request.param)
    return tmp_path / request.param


def test_a_good_file_passes_every_check(written: Path) -> None:
    text = "\n".join(verify_file(written))
    for words in (
        "digests recomputed, all as written",
        "second names hold the same",
        "every shape compared",
        "no absolute",
    ):
        assert words in text


def test_safetensors_reads_back_equal(unet_3d: dict, tmp_path: Path) -> None:
    file = packed(trained_unet(unet_3d), unet_3d, 1)
    for ending in ("pth", "safetensors"):
        write_encoder(file, tmp_path / f"e.{ending}")
        read = read_encoder(tmp_path / f"e.{ending}")
        assert read.network_weights.keys() == file.network_weights.keys()
        assert all(torch.equal(read.network_weights[k], v) for k, v in file.network_weights.items())
        assert (read.nnssl_adaptation_plan, read.provenance, read.citations) == (
            file.nnssl_adaptation_plan, file.provenance, file.citations,
        )  # fmt: skip
    sizes = [(tmp_path / f"e.{ending}").stat().st_size for ending in ("pth", "safetensors")]
    assert sizes[1] < 1.2 * sizes[0], "tensors with two names are stored once"


def test_other_programs_read_our_safetensors(unet_3d: dict, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    write_encoder(packed(trained_unet(unet_3d), unet_3d, 1), tmp_path / "e.safetensors")
    ours, theirs = read_encoder(tmp_path / "e.safetensors").network_weights, load_file(tmp_path / "e.safetensors")
    assert {k for k in ours if ".all_modules." not in k} == theirs.keys()
    assert all(torch.equal(v, ours[k]) for k, v in theirs.items())


def edited(path: Path, change: Any) -> Path:
    """The file with its content changed, digests as they were."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path.with_name("edited.pth"))
    return path.with_name("edited.pth")


def add_one(content: dict) -> None:
    """One value of one tensor, under both its names."""
    content["network_weights"]["encoder.stages.1.blocks.0.conv1.conv.weight"][0, 0, 0, 0, 0] += 1


def put_in(place: str, value: Any) -> Any:
    return lambda content: content["provenance"].update({place: value})


CHANGES = {
    "1 tensors are not what their digests say: encoder.stages.1": add_one,
    "tensors have two names that differ": lambda c: c["network_weights"].update(
        {"encoder.stem.convs.0.all_modules.1.weight": torch.zeros(8)}
    ),
    "the described network is not that of the tensors": lambda c: c["nnssl_adaptation_plan"]["architecture_plans"][
        "arch_kwargs"
    ].update(n_blocks_per_stage=[1, 2, 1]),
    "7 input channels are said, the tensors have 1": lambda c: c["nnssl_adaptation_plan"].update(
        pretrain_num_input_channels=7
    ),
    "key_to_stem = stem": lambda c: c["nnssl_adaptation_plan"].update(key_to_stem="stem"),
    "provenance.config.init holds '/data/projects/x/encoder.pth'": put_in(
        "config", {"init": "/data/projects/x/encoder.pth"}
    ),
    "provenance.a holds 'C:": put_in("a", "from C:\\Users\\somebody\\scan"),
    "provenance.b holds 'patient_007.nii.gz'": put_in("b", ["patient_007.nii.gz"]),
    "lists cases": put_in("plans", {"nnssl": {"train_cases": ["p1"]}}),
}


@pytest.mark.parametrize("said", CHANGES)
def test_what_is_wrong_is_named(unet_3d: dict, tmp_path: Path, said: str) -> None:
    write_encoder(packed(trained_unet(unet_3d), unet_3d, 1), tmp_path / "e.pth")
    with pytest.raises(NnsslError) as error:
        verify_file(edited(tmp_path / "e.pth", CHANGES[said]))
    assert said in str(error.value)


def test_what_only_looks_like_a_path_is_let_through(unet_3d: dict, tmp_path: Path) -> None:
    write_encoder(packed(trained_unet(unet_3d), unet_3d, 1), tmp_path / "e.pth")
    harmless = ["https://doi.org/10.1000/182", "mm/voxel", "1/2", "and/or", "T1/T2", "MAE / SparK", ".nii.gz", "x: y"]
    assert verify_file(edited(tmp_path / "e.pth", put_in("words", harmless)))


def test_case_names_that_are_known_are_searched_for(written: Path) -> None:
    verify_file(written, ["Case_0001"])
    with pytest.raises(NnsslError, match="case name 'somebod'"):
        verify_file(written, ["somebod"])


def test_older_files_without_digests_and_foreign_ones_are_checked_as_far_as_they_go(
    unet_3d: dict, tmp_path: Path
) -> None:
    write_encoder(packed(trained_unet(unet_3d), unet_3d, 1), tmp_path / "e.pth")
    older = edited(tmp_path / "e.pth", lambda c: c.pop("digests"))
    assert any("no digests" in line for line in verify_file(older))
    network = trained_unet(plain_conv(unet_3d))
    torch.save(nnunet_checkpoint(network, plain_conv(unet_3d)), tmp_path / "n.pth")
    assert any("checkpoint of nnU-Net" in line for line in verify_file(tmp_path / "n.pth"))
    torch.save(openmind(spark(network), adaptation_plan(plain_conv(unet_3d))), tmp_path / "o.pth")
    with pytest.raises(NnsslError, match="two names that differ"):
        verify_file(tmp_path / "o.pth")


def test_a_digest_knows_values_shape_and_type() -> None:
    first = torch.arange(6, dtype=torch.float32)
    others = [first.reshape(2, 3), first.double(), first + 1, first[:5]]
    assert tensor_digest(first) == tensor_digest(first.clone())
    assert len({tensor_digest(t) for t in (first, *others)}) == 5
    assert tensor_digest(torch.zeros(2, 2)[:, 0]) == tensor_digest(torch.zeros(2)), "a view counts as its values"
    weights = {"encoder.a.conv.weight": first, "encoder.a.all_modules.0.weight": first}
    digests = digests_of(weights)
    assert changed(weights, digests) == []
    assert changed({}, digests) == changed({"encoder.a.conv.weight": first + 1}, digests) == ["encoder.a.conv.weight"]


@pytest.mark.slow
def test_files_of_a_real_run_hold_no_names_and_no_paths(pretraining: Path, tmp_path: Path) -> None:
    arguments = ["902", "3d_fullres", "-m", "masked_region", "-device", "cpu", "--epochs", "1", "--iterations", "1"]
    assert run_command("pretrain", *arguments, "--batch-size", "2", "--set", "val_iterations=1") == 0
    folder = run_folder(tmp_path / "results")
    file: EncoderFile = read_encoder(folder / "encoder.pth")
    write_encoder(file, folder / "encoder.safetensors")
    names = [
        p.name.removesuffix("_0000.nii.gz") for p in (pretraining / "raw" / "Dataset902_Pool" / "imagesTr").iterdir()
    ]
    assert len(names) > 4
    for name in ("encoder.pth", "encoder.safetensors", "nnunet_init.pth"):
        verify_file(folder / name, names)
        raw = (folder / name).read_bytes()
        for secret in (*names, str(tmp_path), str(pretraining)):
            assert secret.encode() not in raw, f"{secret} in {name}"
    content = copy.deepcopy(file)
    content.provenance["config"]["x"] = names[0]
    write_encoder(content, folder / "leaky.pth")
    with pytest.raises(NnsslError, match="case name"):
        verify_file(folder / "leaky.pth", names)
