"""The trainer's own step without the host waiting for the device: on an imagined GPU, a watched CPU, a real GPU."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytest
import torch
from nnssl.trainers import step
from nnssl.trainers.checkpoint import RunState
from nnssl.trainers.optimisers import make_optimizer, parameter_groups
from nnssl.trainers.precision import loss_scaler
from nnssl.trainers.run_config import RunConfig
from nnssl.trainers.step import PUT_BACK, TrainingStep
from nnssl.trainers.trouble import StepGuard, Trouble
from torch._subclasses.fake_tensor import DataDependentOutputException

from nnssl.data.sampling import TRAINING
from nnssl.methods import CropBatch
from nnssl.methods.base import OptimizerName
from nnssl.methods.sparse_encoding import SparseEncoding
from nnssl.networks.checkpointing import checkpoint_stages
from tests.methods.cases import SHAPES, make_crops, make_method
from tests.methods.imagined_gpu import GPU, HostReads, ImaginedGPU, imagine, moved

CPU = torch.device("cpu")
STEPS = 3
"""The first makes the optimiser's state, the second adds to sums that are there, the third follows one on record."""


@dataclass(frozen=True)
class Setting:
    """Of a run, in a test."""

    method: str
    executor: str = "dense"
    run: dict[str, Any] = field(default_factory=dict)
    precision: torch.dtype = torch.float32

    def __str__(self) -> str:
        words = [self.method, self.executor, *(f"{k}={v}" for k, v in self.run.items()), str(self.precision)[6:]]
        return " ".join(words)


SAVING: dict[str, Any] = {"accumulate": 2, "checkpointing": True}
SETTINGS = [
    Setting("masked_region"),
    Setting("masked_region", run=SAVING),
    Setting("spark", "dense", SAVING),
    Setting("spark", "tiles"),
    Setting("spark", "tiles", SAVING),
    *(Setting(name, run={"checkpointing": True}) for name in ("byol", "moco", "dino")),
]
"""In byol, moco and dino the crops of a batch meet, so they do not accumulate."""
COUNTING = [("radam", torch.float16), ("lamb", torch.float16)]
"""Overflows must not be counted, and these count on the host: see `nnssl.trainers.step.PUT_BACK`."""
OPTIMISERS = [
    Setting("rotation", run={"optimizer": optimizer, "accumulate": 2}, precision=precision)
    for optimizer in get_args(OptimizerName)
    for precision in (torch.float32, torch.float16)
    if (optimizer, precision) not in COUNTING
]


def built(setting: Setting, device: torch.device, imaginary: bool = False) -> TrainingStep:
    """What `initialize` and `prepare_network` make of a setting, as far as a step needs it, on a small network."""
    trainer = TrainingStep()
    method = make_method(setting.method, SHAPES["3d"]).train()
    trainer.method = trainer.network = moved(method) if imaginary else method.to(device)
    trainer.run = RunConfig(method=setting.method, batch_size=4, epochs=2, iterations=STEPS, **setting.run).resolved(4)
    trainer.state, trainer.num_epochs, trainer.num_iterations_per_epoch = RunState(), 2, STEPS
    trainer.local_rank, trainer.world_size, trainer.device, trainer.precision = 0, 1, device, setting.precision
    trainer._scales_C = torch.ones(1).to(device, non_blocking=True)
    if trainer.run.checkpointing:
        assert checkpoint_stages(method)
    for part in method.modules():
        if isinstance(part, SparseEncoding):
            part.use_executor(setting.executor)  # type: ignore[arg-type]
    run: Any = trainer.run
    groups = parameter_groups(method.named_parameters(), run.weight_decay)
    trainer.optimizer = make_optimizer(run.optimizer, groups, run.lr, fused=True, momentum=run.momentum)
    trainer.grad_scaler = loss_scaler(setting.precision, device)
    assert trainer.grad_scaler is None or trainer.grad_scaler.is_enabled()
    trainer.guard = StepGuard(method, trainer.optimizer, ask=False)
    trainer.state.trouble = Trouble(CPU)
    for key in ("streak", "longest", "first", "norms", "values"):
        setattr(trainer.state.trouble, key, getattr(trainer.state.trouble, key).to(device, non_blocking=True))
    return trainer


def steps(trainer: TrainingStep, batch: CropBatch) -> None:
    for _ in range(STEPS):
        trainer._step(batch)
    assert trainer.state.step == STEPS and {"train_loss", "empty_crops"} < trainer.state.sums.keys()


@pytest.fixture
def imagined(monkeypatch: pytest.MonkeyPatch) -> ImaginedGPU:
    """Its autograd has no streams, so that gradients are zeros here; what a backward pass computes is watched on a CPU."""
    gpu = imagine(monkeypatch)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    return gpu


def steps_on_the_imagined_gpu(setting: Setting, gpu: ImaginedGPU, monkeypatch: pytest.MonkeyPatch) -> TrainingStep:
    with gpu:
        trainer = built(setting, GPU, imaginary=True)
        batch = make_crops(trainer.method).to(GPU)

        def backward(_loss: torch.Tensor) -> None:
            for p in trainer.method.parameters():
                if p.requires_grad:
                    p.grad = torch.zeros_like(p) if p.grad is None else p.grad + 0

        monkeypatch.setattr(torch.Tensor, "backward", backward)
        gpu.waits.clear()
        steps(trainer, batch)
        assert trainer.state.trouble.norms.device == GPU
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("setting", [*SETTINGS, *OPTIMISERS], ids=str)
def test_on_an_imagined_gpu(setting: Setting, imagined: ImaginedGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a step but the backward pass; a tensor on the wrong device, or a question for a number, raises here."""
    steps_on_the_imagined_gpu(setting, imagined, monkeypatch)
    assert imagined.operations > 300
    assert not imagined.waits


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "precision"), COUNTING)
def test_where_the_scaler_asks(
    optimizer: str, precision: torch.dtype, imagined: ImaginedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one wait that is known: it ends the first step here, because there is no number to tell."""
    setting = Setting("rotation", run={"optimizer": optimizer}, precision=precision)
    with pytest.raises(DataDependentOutputException) as caught:
        steps_on_the_imagined_gpu(setting, imagined, monkeypatch)
    assert dict(imagined.waits) == {"aten::_local_scalar_dense": 1}
    assert "_maybe_opt_step" in {entry.name for entry in caught.traceback}


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_on_a_cpu_that_is_watched(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the backward pass, and what it computes again. Off a GPU, where it costs nothing, the guard asks once.

    Views are made beforehand: what they draw on the CPU, and read there, cannot be told apart here.
    """
    trainer = built(setting, CPU)
    batch = make_crops(trainer.method)
    views = trainer._views(batch, TRAINING, 0)
    monkeypatch.setattr(trainer, "_views", lambda *_: views)
    before = [p.detach().clone() for p in trainer.method.parameters()]
    with HostReads() as reads:
        steps(trainer, batch)
    asked = {"nnssl.trainers.trouble after": STEPS} if any(True for _ in trainer.method.buffers()) else {}
    assert dict(reads.places) == asked
    assert any(not torch.equal(a, b) for a, b in zip(trainer.method.parameters(), before, strict=True)), "no step made"


@pytest.mark.parametrize("optimizer", PUT_BACK)
def test_an_overflow_is_skipped_as_a_scaler_does(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, with the scale that follows; also where the step that makes the optimiser's state overflows."""

    def run(names: tuple[str, ...]) -> list[torch.Tensor]:
        monkeypatch.setattr(step, "PUT_BACK", names)
        trainer = built(Setting("rotation", run={"optimizer": optimizer}), CPU)
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        good = make_crops(trainer.method)
        nothing = replace(good, images=torch.full_like(good.images, torch.nan))
        for number in range(5):
            trainer._step(nothing if number in (0, 3) else good)
        assert trainer.grad_scaler.get_scale() == 8.0 / 2 * 2 / 2
        assert float(trainer.state.sums[step.SKIPPED]) == 2
        state = [s for p in trainer.method.parameters() for s in trainer.optimizer.state.get(p, {}).values()]
        return [*trainer.method.state_dict().values(), *state]

    for a, b in zip(run(()), run((optimizer,)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("setting", [*SETTINGS, *OPTIMISERS], ids=str)
def test_on_a_real_gpu(setting: Setting) -> None:
    trainer = built(setting, GPU)
    batch = make_crops(trainer.method).to(GPU)
    trainer._step(batch)  # makes the optimiser's state and chooses algorithms
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
