from __future__ import annotations

import copy
import dataclasses
import math
from collections import deque

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nnssl.trainers.run_config import make_run_config

from nnssl.errors import NnsslError
from nnssl.methods.swav import SwAV
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded
from tests.methods.spread import assert_spreading_changes_nothing
from tests.oracles import sinkhorn as oracle


def make(shape: str = "2d", alive: bool = True, **options: object) -> SwAV:
    small = {"hidden": 32, "out": 16, "prototypes": 8, "queue": 12, "n_local": 2}
    method = make_method("swav", SHAPES[shape], **{**small, **options})
    assert isinstance(method, SwAV)
    if alive:
        liven(method)
    return method


def step(method: SwAV, seed: int = 0, batch: int = 4, progress: float = 0.5) -> torch.Tensor:
    """Forward, backward, and what follows an optimiser step; returns the loss."""
    loss = method(method.views(make_crops(method, batch, seed=seed), seeded(seed))).total
    loss.backward()
    method.after_step(progress)
    return loss.detach()


def embeddings(method: SwAV, views: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Unit embeddings of all views, the large ones first. The norm in the projector sees all of them at once."""
    names = ["view_1", "view_2", *(k for k in views if k.startswith("local_"))]
    z = method.projector(torch.cat([method.backbone(views[n]) for n in names])).detach()
    return list(F.normalize(z, dim=1).chunk(len(names)))


def expected_loss(method: SwAV, views: dict[str, torch.Tensor], queue: torch.Tensor) -> float:
    """Swapped prediction, pair by pair."""
    c = method.config
    prototypes = F.normalize(method.prototypes.weight.detach(), dim=1)
    scores = [(z @ prototypes.T).numpy() for z in embeddings(method, views)]
    losses = []
    for i in (0, 1):
        everybody = np.concatenate([scores[i], (queue @ prototypes.T).numpy()])
        codes = oracle.sinkhorn(everybody.astype(float), c.epsilon, c.iterations)
        for v in range(len(scores)):
            for b in range(len(scores[v])) if v != i else ():
                logits = scores[v][b] / c.temperature
                log_p = logits - math.log(sum(math.exp(x) for x in logits))
                losses.append(-sum(q * lp for q, lp in zip(codes[b], log_p)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("options", [{"n_local": 0}, {"n_local": 3}, {"queue": 0}, {"epsilon": 0.3, "iterations": 1}])
def test_loss_is_the_swapped_prediction(options: dict) -> None:
    method = make(**options).eval()
    views = method.views(make_crops(method), seeded())
    assert method(views).total.item() == pytest.approx(expected_loss(method, views, torch.zeros(0, 16)), rel=1e-4)


def test_the_queue_joins_the_codes_when_its_time_has_come() -> None:
    method = make(queue_start=0.5)
    step(method, progress=0.4)  # eight of twelve places are filled
    views = method.views(make_crops(method, seed=1), seeded(1))
    method.eval()
    queue = method.queue[method.queue_filled > 0]
    assert len(queue) == 8
    alone, together = (expected_loss(method, views, q) for q in (torch.zeros(0, 16), queue))
    assert abs(alone - together) > 1e-4
    assert method(views).total.item() == pytest.approx(alone, rel=1e-4)
    method.after_step(0.5)
    assert method(views).total.item() == pytest.approx(together, rel=1e-4)


@pytest.mark.parametrize(("queue", "batches"), [(16, [4, 4, 4]), (7, [2, 3, 4, 1]), (3, [4, 2]), (0, [4])])
def test_the_queue_holds_the_latest_embeddings_whatever_the_batch(queue: int, batches: list[int]) -> None:
    method = make(queue=queue)
    expected: deque = deque(maxlen=queue)
    for number, batch in enumerate(batches):
        views = method.views(make_crops(method, batch, seed=number), seeded(number))
        for pair in zip(*embeddings(method, views)[:2]):
            expected.extend(pair)
        method(views)
        method.after_step(0.5)
    order = (torch.arange(queue) + method.queue_next) % queue if queue else torch.zeros(0, dtype=torch.long)
    filled = [i for i in order.tolist() if method.queue_filled[i]]  # oldest first
    assert len(filled) == len(expected) == min(queue, 2 * sum(batches))
    if queue:
        assert torch.allclose(method.queue[filled], torch.stack(list(expected)), atol=1e-5)


def test_prototypes_stand_still_while_frozen_and_never_lack_a_gradient() -> None:
    method = make(freeze=0.3)
    for progress, moves in ((0.2, False), (0.3, False), (0.4, True)):  # progress *after* the step
        method.zero_grad()
        step(method, progress=progress)
        gradient = method.prototypes.weight.grad
        assert gradient is not None
        assert bool(gradient.abs().sum() > 0) == moves
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.backbone.parameters())
    unfrozen = make(freeze=0)
    step(unfrozen)
    assert unfrozen.prototypes.weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_local_views_are_small_and_come_after_the_large_ones() -> None:
    method = make("3d", n_local=3)
    crops = make_crops(method)
    views = method.views(crops, seeded())
    assert list(views) == ["view_1", "view_2", "case", "local_1", "local_2", "local_3"]
    assert views["local_3"].shape == (4, 1, 8, 8, 8)
    assert not torch.equal(views["local_1"], views["local_2"])
    assert list(method.preview(views)) == ["view 1", "view 2", "local 1", "local 2", "local 3"]


def test_local_views_of_subjects_come_from_both_scans() -> None:
    method = make(positives="subject")
    crops = make_crops(method)
    assert crops.partner is not None
    blank = dataclasses.replace(crops.partner, images=torch.zeros_like(crops.images))
    views = method.views(dataclasses.replace(crops, partner=blank), seeded())
    other = {k: v.abs().sum() > 0 for k, v in views.items()}
    plain = method.views(crops, seeded())
    assert torch.equal(views["local_1"], plain["local_1"])
    assert not torch.equal(views["local_2"], plain["local_2"])
    assert other["view_1"]


def test_validation_changes_no_state_and_measures_how_prototypes_are_used() -> None:
    method = make()
    step(method)
    before = copy.deepcopy(method.state_dict())
    method.eval()
    method(method.views(make_crops(method, batch=8), seeded(1)))
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    found = method.diagnostics()
    assert {"embedding_std", "effective_rank", "knn_agreement", "usage_entropy", "assignment_entropy"} == set(found)
    assert 0 <= found["assignment_entropy"] <= found["usage_entropy"] <= 1
    queue = method.queue.clone()
    method.after_step(0.5)
    assert torch.equal(method.queue, queue), "a validation's embeddings must not enter the queue"


def test_going_on_from_a_state_between_steps_is_the_same_run() -> None:
    method = make()
    step(method)
    resumed = make()
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    for number in range(2):
        assert torch.equal(step(method, number), step(resumed, number))
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in method.state_dict().items())


@pytest.mark.parametrize("head_norm", ["layer", "batch"])
def test_spread_over_processes_it_is_the_same_step_and_the_same_queue(
    monkeypatch: pytest.MonkeyPatch, head_norm: str
) -> None:
    method = make(head_norm=head_norm)
    step(method, seed=1)
    method.zero_grad()
    views = method.views(make_crops(method), seeded())
    *parts, whole = assert_spreading_changes_nothing(monkeypatch, method, views, (3, 1))
    for part in parts:
        assert all(torch.allclose(v, part.state_dict()[k], atol=1e-5) for k, v in whole.state_dict().items())


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_batch_of_any_shape_is_finite(shape: str, batch: int) -> None:
    method = make(shape)
    step(method, batch=batch)  # the prototypes thaw
    method.zero_grad()
    assert step(method, batch=batch).isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert all(p.grad.abs().sum() > 0 for p in method.parameters())


def test_it_learns_to_tell_crops_apart() -> None:
    method = make(alive=False, prototypes=4, freeze=0, n_local=1)
    views = method.views(make_crops(method), seeded())
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    for _ in range(40):
        losses = method(views)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        method.after_step(0.05)
    assert losses.total < 0.3 * math.log(4)
    method.eval()
    method(views)
    found = method.diagnostics()
    assert found["knn_agreement"] == 1
    assert found["usage_entropy"] > 0.95
    assert found["assignment_entropy"] < 0.3
    assert method.health(found) == []


def test_what_is_exported_is_the_encoder_alone() -> None:
    method = make()
    assert method.exported().encoder is method.backbone.encoder
    assert method.exported().decoder is None


def test_advice_and_health() -> None:
    method = make(prototypes=8, queue=12)
    assert method.advice(100, 4) == []
    assert "8 cannot be divided evenly among the 4" in make(queue=0).advice(100, 4)[0]
    assert "12 holds 6.0 embeddings" in method.advice(2, 4)[0]
    healthy = {"embedding_std": 0.9, "effective_rank": 5.0, "usage_entropy": 0.9, "assignment_entropy": 0.4}
    assert method.health(healthy) == []
    assert "one prototype" in method.health({**healthy, "usage_entropy": 0.01, "assignment_entropy": 0.0})[0]
    assert "the same prediction" in method.health({**healthy, "assignment_entropy": 0.895})[0]
    assert "collapsed to a point" in method.health({**healthy, "embedding_std": 0.01})[0]


def test_a_share_the_wrong_way_round_is_refused() -> None:
    with pytest.raises(NnsslError, match="local_share"):
        make_run_config("swav", {}, None, ["local_share=[0.5,0.1]"]).resolved(2)
