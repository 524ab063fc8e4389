"""Every method without the host waiting for the device: on an imagined GPU, and on a real one.

The trainer's step around it: tests/trainers/test_step.py.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from nnssl.methods import METHODS, Method
from nnssl.methods.sparse_encoding import SparseEncoding
from tests.methods.cases import SHAPES, make_crops, make_method, seeded
from tests.methods.imagined_gpu import GPU, HostReads, ImaginedGPU, imagine, moved

NAMES = [*sorted(METHODS), "masked_region+next_slice"]


def use_tiles(method: Method) -> None:
    """Where there is a choice the way with tables of indices, which has more to get wrong."""
    for part in method.modules():
        if isinstance(part, SparseEncoding):
            part.use_executor("tiles")


@pytest.fixture
def imagined(monkeypatch: pytest.MonkeyPatch) -> ImaginedGPU:
    return imagine(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_forward_and_optimiser(name: str, imagined: ImaginedGPU) -> None:
    """Views, forward pass, clipping, fused optimiser, teachers and queues. A tensor on the wrong device raises."""
    method = make_method(name, SHAPES["3d"]).train()
    use_tiles(method)
    crops = make_crops(method)
    with imagined:
        moved(method)
        batch = crops.to(GPU)
        imagined.waits.clear()
        total = method(method.views(batch, seeded())).total
        assert total.device == GPU
        parameters = [p for p in method.parameters() if p.requires_grad]
        for p in parameters:
            p.grad = torch.zeros_like(p)
        torch.nn.utils.clip_grad_norm_(parameters, 12.0)
        torch.optim.AdamW(parameters, fused=True).step()
        method.after_step(0.5)
    assert imagined.operations > 300
    assert not imagined.waits


@pytest.mark.parametrize("name", NAMES)
def test_backward(name: str) -> None:
    """The imagined GPU has no streams for autograd; what the backward pass computes is the same on a CPU."""
    method = make_method(name, SHAPES["3d"]).train()
    use_tiles(method)
    total = method(method.views(make_crops(method), seeded())).total
    with HostReads() as reads:
        total.backward()
    assert not reads.places


def test_waiting_is_noticed(imagined: ImaginedGPU) -> None:
    with imagined:
        x = torch.ones(3).to(GPU, non_blocking=True)
        assert not imagined.waits
        for wait in (
            lambda: x.to("cpu"),
            lambda: x.nonzero(),
            lambda: x[x > 0],
            lambda: x[:, None][[0, 1]],
            lambda: torch.ones(3).to(GPU),
            lambda: x.sum().item(),
        ):
            before = imagined.waits.total()
            with suppress(Exception):  # fake tensors have no numbers, and each kind of question raises its own error
                wait()
            assert imagined.waits.total() > before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_on_a_real_gpu(name: str) -> None:
    device = torch.device("cuda", 0)
    method = make_method(name, SHAPES["3d"]).to(device).train()
    use_tiles(method)
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    crops = make_crops(method).to(device)
    for step in range(2):  # the first one makes the optimiser's state and chooses algorithms
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                total = method(method.views(crops, seeded())).total
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 12.0)
            optimizer.step()
            method.after_step(0.5)
        finally:
            torch.cuda.set_sync_debug_mode("default")
