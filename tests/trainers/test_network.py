from __future__ import annotations

import copy
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nnssl.trainers.memory import LiveMemory, advice, peak_bytes, step_bytes
from nnssl.trainers.network import freeze_biases, to_channels_last
from nnssl.trainers.precision import settle_memory_format
from nnssl.trainers.run_config import RunConfig
from nnssl.trainers.self_check import Convolution, check_convolutions, computed_by, convolution_errors, largest

from nnssl.errors import NnsslError
from nnssl.methods import METHODS, get_method
from tests.conftest import run_command, run_folder
from tests.methods.cases import SHAPES, make_crops, make_method, seeded
from tests.trainers.test_pretraining import metrics

CPU = torch.device("cpu")


@pytest.fixture
def results(pretraining: Path, tmp_path: Path) -> Path:
    return tmp_path / "results"


def test_auto_is_channels_last_where_it_pays() -> None:
    gpu = torch.device("cuda")
    assert settle_memory_format("auto", CPU, torch.bfloat16) == "contiguous"
    assert settle_memory_format("auto", gpu, torch.bfloat16) == "channels_last"
    assert settle_memory_format("auto", gpu, torch.float32) == "contiguous"
    assert settle_memory_format("channels_last", CPU, torch.float32) == "channels_last"


@pytest.mark.parametrize("shape", ["2d", "3d"])
def test_channels_last_changes_the_order_only(shape: str) -> None:
    plain = make_method("spark", SHAPES[shape]).train()
    other = copy.deepcopy(plain)
    names = dict(other.named_parameters(remove_duplicate=False))
    assert to_channels_last(other) > 5
    conv = next(p for p in other.parameters() if p.ndim > 3 and min(p.shape) > 1)
    assert not conv.is_contiguous()
    assert names.keys() == dict(plain.named_parameters(remove_duplicate=False)).keys()
    crops = make_crops(plain)
    losses = [m(m.views(crops, seeded())).total for m in (plain, other)]
    assert torch.allclose(*losses, rtol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("name", ["spark", "byol"])
def test_frozen_biases_do_not_matter(name: str) -> None:
    """Whatever they are, the loss is the same; and no other bias is frozen."""
    method = make_method(name, SHAPES["3d"]).train()
    learned = [p for p in method.parameters() if p.requires_grad]
    assert freeze_biases(method) > 5
    frozen = [p for p in learned if not p.requires_grad]
    assert len(frozen) > 5
    assert all(p.ndim == 1 for p in frozen)
    views = method.views(make_crops(method), seeded())
    before = method(views).total
    with torch.no_grad():
        for bias in frozen:
            bias.add_(torch.randn(bias.shape) * 3)
    assert torch.allclose(before, method(views).total, rtol=1e-4)


@pytest.mark.parametrize("shape", ["2d", "3d"])
def test_self_check_passes_here_and_finds_a_wrong_result(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = make_method("spark", SHAPES[shape])
    [line] = check_convolutions(method, CPU, torch.bfloat16, 2)
    assert "agree with float32" in line
    assert f"torch {torch.__version__}" in line
    right = torch.ops.aten.convolution

    def wrong(x: torch.Tensor, *rest: object) -> torch.Tensor:
        out = right(x, *rest)
        if x.dtype == torch.bfloat16:
            out[-1, -1, -1] *= 0.9  # a corner of the result, as an overflowing index would leave it
        return out

    monkeypatch.setattr(torch.ops.aten, "convolution", wrong)
    with pytest.raises(NnsslError, match="precision=float32"):
        check_convolutions(method, CPU, torch.bfloat16, 2)


def test_self_check_leaves_out_what_memory_does_not_hold() -> None:
    """The allocator itself refuses the shape of the first stages; the check must not end a run that would fit."""
    first, second = check_convolutions(make_method("spark", SHAPES["2d"]), CPU, torch.bfloat16, 2**44)
    assert "self-check: 0 convolutions" in first
    assert "left out, because the memory of cpu is too small" in second


@pytest.mark.parametrize("executor", ["dense", "tiles"])
def test_the_check_is_of_what_the_run_computes(executor: str) -> None:
    """The decoder's largest map and its transposed convolutions; tiles with their margin, as the executor reads them."""
    method: Any = make_method("spark", SHAPES["3d"])
    method.use_executor(executor)
    chosen = largest(computed_by(method, CPU), 2)
    patch = tuple(method.geometry.patch_size)
    full = [c for c in chosen if c.shape[2:] == patch and not c.transposed]
    assert full and max(c.channels[0] for c in full) == 2 * method.encoder.output_channels[0]  # behind the skip
    assert any(c.transposed and c.shape[0] == 2 for c in chosen)
    tiles = [c for c in chosen if c.shape[0] == 2 * method.visible_blocks()]
    assert bool(tiles) == (executor == "tiles")
    assert all(set(c.padding) == {0} for c in tiles if not c.transposed)
    assert any(c.transposed for c in tiles) == bool(tiles)  # the gradient of a convolution on tiles
    assert all(p.grad is None for p in method.parameters())


def test_float16_sums_do_not_overflow_the_check() -> None:
    conv = torch.nn.Conv2d(8, 8, 3, padding=1)
    errors = convolution_errors(Convolution.of(conv, (1, 8, 128, 128)), CPU, torch.float16)
    assert all(e < 0.02 for e in errors.values()), errors


def test_live_memory_is_what_is_in_use() -> None:
    x = torch.zeros(1000)
    with LiveMemory() as memory:
        a = x + 1
        b = a.view(10, 100)  # no memory of its own
        assert memory.live == 4000
        c = torch.cat([a, b.flatten()])
        assert memory.live == 12000
        del a, b
        assert memory.live == 8000
        c.add_(1)
        del c
    assert (memory.live, memory.peak) == (0, 12000)


@pytest.mark.parametrize("name", ["masked_region", "spark", "byol"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_estimate_is_what_a_step_takes(name: str, accumulate: int) -> None:
    """Measured with one and two crops, right for five; gradients count once, and beside everything if they are kept."""
    trainer: Any = SimpleNamespace(
        method=make_method(name, SHAPES["3d"]).train(), device=CPU, _autocast=nullcontext,
        run=RunConfig(method=name, accumulate=accumulate),
    )  # fmt: skip
    gradients = sum(4 * p.numel() for p in trainer.method.parameters() if p.requires_grad)
    estimate, peak = step_bytes(trainer, 5), peak_bytes(trainer, 5)
    assert peak is not None and peak > gradients / 2
    wanted = peak if accumulate > 1 else max(peak - gradients, 0)
    assert estimate == pytest.approx(wanted, rel=0.05, abs=gradients * 0.05)


def test_a_network_that_does_not_fit_twice_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is made on a copy; the allocator itself refuses it."""
    method: Any = make_method("spark", SHAPES["3d"])
    monkeypatch.setattr(type(method), "__deepcopy__", lambda *_: torch.empty(2**60, dtype=torch.uint8), raising=False)
    trainer: Any = SimpleNamespace(method=method, device=CPU, _autocast=nullcontext, run=RunConfig(method="spark"))
    assert step_bytes(trainer, 2) is None
    assert computed_by(method, CPU) == set()


def test_a_continued_run_is_told_what_it_may_change() -> None:
    method = make_method("spark", SHAPES["3d"])
    trainer: Any = SimpleNamespace(
        method=method, world_size=1, run=RunConfig(method="spark", batch_size=4), _continuing=False
    )
    assert all(
        word in advice(trainer) for word in ("--executor tiles", "accumulate=2", "checkpointing", "--batch-size 2")
    )
    trainer._continuing = True
    assert advice(trainer) == "try --set checkpointing=true"


def test_who_may_accumulate() -> None:
    alone = {name for name in METHODS if get_method(name).crops_alone}
    assert {"masked_region", "spark", "simmim", "rotation"} <= alone
    assert not alone & {"simclr", "moco", "byol", "dino", "swav", "vicreg", "volume_fusion", "swin_unetr_pretext"}
    assert get_method("spark+flip").crops_alone
    assert not get_method("spark+simclr").crops_alone


@pytest.mark.parametrize("name", sorted(n for n in METHODS if get_method(n).crops_alone))
def test_parts_add_up_to_the_batch(name: str) -> None:
    """Loss and gradient, where all crops have as many voxels that count."""
    method = make_method(name, SHAPES["3d"]).eval()  # views without augmentation, which would turn padding in
    crops = make_crops(method)
    crops.inside[:] = torch.tensor([[0, n] for n in method.read_size()])
    views = method.views(crops, seeded())
    method.train()
    whole = method(views).total
    whole.backward()
    wanted = [p.grad.clone() for p in method.parameters() if p.grad is not None]
    method.zero_grad()
    total = torch.zeros(())
    for rows in (slice(0, 2), slice(2, 4)):
        part = method({k: v[rows] for k, v in views.items()}).total / 2
        part.backward()
        total = total + part.detach()
    assert torch.allclose(total, whole.detach(), rtol=1e-5)
    got = [p.grad for p in method.parameters() if p.grad is not None]
    scale = max(float(w.abs().max()) for w in wanted)
    assert all(torch.allclose(g, w, rtol=1e-4, atol=1e-5 * scale) for g, w in zip(got, wanted))  # type: ignore[arg-type]


def test_settings_in_a_run(results: Path, capsys: pytest.CaptureFixture) -> None:
    """All at once: the losses of the first epoch are those of a run without, and everything is exported."""
    quick = ("902", "3d_fullres", "-m", "masked_region", "-device", "cpu", "--iterations", "2", "--epochs", "2",
             "--batch-size", "4", "--set", "val_iterations=1", "--set", "workers=1")  # fmt: skip
    every = ("checkpointing=true", "memory_format=channels_last", "freeze_biases=true", "accumulate=2", "cache=0.1")
    assert run_command("pretrain", *quick, "--name", "plain") == 0
    assert run_command("pretrain", *quick, "--name", "every", *(x for s in every for x in ("--set", s))) == 0
    output = capsys.readouterr().out
    assert re.search(r"checkpointing: \d+ stages", output)
    assert "cache: 5 of 5 cases" in output
    plain, changed = (run_folder(results, f"nnsslTrainer_MaskedRegion_{n}") for n in ("plain", "every"))
    for a, b in zip(metrics(plain), metrics(changed)):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=0.02)
    assert (changed / "nnunet_init.pth").is_file()


def test_contrast_does_not_accumulate(results: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ("902", "3d_fullres", "-m", "simclr", "-device", "cpu", "--set", "accumulate=2")
    assert run_command("pretrain", *arguments) == 2
    assert "in simclr the crops of a batch meet" in capsys.readouterr().err
