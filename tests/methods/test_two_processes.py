"""Two gloo processes with three crops and one are one process with four: same loss, terms, gradient and state."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from nnssl.losses import Ranks
from nnssl.methods import METHODS, Method
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded

NAMES = [*sorted(METHODS), "spark+simclr"]
SIZES = (3, 1)


def prepared(name: str) -> tuple[Method, dict[str, torch.Tensor]]:
    method = make_method(name, SHAPES["3d"]).train()
    liven(method, std=0.05)
    return method, method.views(make_crops(method, batch=sum(SIZES)), seeded())


def outcome(method: Method, network: torch.nn.Module, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Loss, terms for the log, gradients and the state after the method's own update."""
    losses = network(views)
    total = losses.total
    total.backward()
    terms = {f"term {k}": v.detach().clone() for k, v in losses.terms.items()}
    gradients = {f"gradient {k}": p.grad for k, p in method.named_parameters() if p.requires_grad}
    method.after_step(0.5)
    state = {f"state {k}": v.clone() for k, v in method.state_dict().items()}
    return {"loss": total.detach(), **terms, **gradients, **state}  # type: ignore[dict-item]


def one_process(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    begin = sum(SIZES[:rank])
    for name in NAMES:
        method, views = prepared(name)
        method.assign_ranks(Ranks(SIZES, rank))
        mine = {k: v[begin : begin + SIZES[rank]] for k, v in views.items()}
        torch.save(outcome(method, DistributedDataParallel(method), mine), Path(folder) / f"{name}_{rank}.pth")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outcome of every method on every process."""
    folder = tmp_path_factory.mktemp("two_processes")
    with socket.socket() as s:
        s.bind(("", 0))
        port = s.getsockname()[1]
    mp.spawn(one_process, args=(port, str(folder)), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one_big_batch(name: str, spread: Path) -> None:
    method, views = prepared(name)
    expected = outcome(method, method, views)
    parts = [torch.load(spread / f"{name}_{rank}.pth") for rank in range(2)]
    assert torch.allclose((parts[0]["loss"] + parts[1]["loss"]) / 2, expected["loss"], rtol=1e-5, atol=1e-6)
    for key in [k for k in expected if k.startswith("term")]:
        mean = (parts[0][key] + parts[1][key]) / 2  # as the trainer averages over processes
        assert torch.allclose(mean, expected[key], rtol=1e-4, atol=1e-5), key
    scale = max(float(v.abs().max()) for k, v in expected.items() if k.startswith("gradient"))
    assert scale > 1e-6, "a gradient of zero would agree with anything"
    for key, wanted in expected.items():
        for part in parts if key != "loss" and not key.startswith("term") else []:
            if key.startswith("gradient"):
                assert torch.allclose(part[key], wanted, rtol=1e-3, atol=1e-4 * scale), key
            elif wanted.is_floating_point():
                assert torch.allclose(part[key], wanted, rtol=1e-4, atol=1e-5), key
            else:
                assert torch.equal(part[key], wanted), key
