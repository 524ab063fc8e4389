"""No GPU is needed: what is told to cuDNN is looked at, not what it makes of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from nnssl.trainers import pretraining as trainer_module
from nnssl.trainers.device import prepare_device, without_search
from nnssl.trainers.dry_run import initialized_trainer
from nnssl.trainers.launch import Request


@pytest.fixture
def cudnn(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands in for torch's settings, in the state that nnU-Net would change."""
    settings = SimpleNamespace(benchmark=False, deterministic=True)
    monkeypatch.setattr(torch.backends, "cudnn", settings)
    return settings


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_other_devices_are_left_alone(cudnn: SimpleNamespace, device: str) -> None:
    prepare_device(torch.device(device))
    assert vars(cudnn) == {"benchmark": False, "deterministic": True}


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_on_a_gpu_algorithms_are_tried(cudnn: SimpleNamespace, device: str) -> None:
    prepare_device(torch.device(device))
    assert vars(cudnn) == {"benchmark": True, "deterministic": False}


@pytest.mark.parametrize("before", [False, True])
def test_not_while_memory_is_measured(cudnn: SimpleNamespace, before: bool) -> None:
    cudnn.benchmark = before
    with pytest.raises(MemoryError), without_search():
        assert not cudnn.benchmark
        raise MemoryError
    assert cudnn.benchmark is before


def test_a_run_prepares_its_device_before_it_computes(pretraining: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """`initialize` is the one way to a run: of nnssl_pretrain, nnssl_benchmark and --dry-run, and of nnUNetv2_train."""
    calls = []
    monkeypatch.setattr(trainer_module, "prepare_device", lambda device: calls.append(device.type))
    prepare_network = trainer_module.prepare_network
    monkeypatch.setattr(trainer_module, "prepare_network", lambda t: calls.append("network") or prepare_network(t))
    request = Request("902", "3d_fullres", "masked_region", device="cpu", flags={"epochs": 1, "iterations": 1})
    initialized_trainer(request, torch.device("cpu"))
    assert calls == ["cpu", "network"]
