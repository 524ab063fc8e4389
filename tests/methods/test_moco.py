from __future__ import annotations

import copy
import dataclasses
from collections import deque

import pytest
import torch
import torch.nn.functional as F

from nnssl.errors import NnsslError
from nnssl.methods import CropBatch
from nnssl.methods.moco import MoCo
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded
from tests.methods.spread import assert_spreading_changes_nothing
from tests.oracles import info_nce as oracle


def make(**options: object) -> MoCo:
    method = make_method("moco", SHAPES["2d"], **options)
    assert isinstance(method, MoCo)
    liven(method)
    return method


def step(method: MoCo, crops: CropBatch, seed: int = 0) -> torch.Tensor:
    """Forward, backward, and what follows an optimiser step; returns the loss."""
    loss = method(method.views(crops, seeded(seed))).total
    loss.backward()
    method.after_step(0.5)
    return loss.detach()


def keys_of(method: MoCo, view: torch.Tensor) -> torch.Tensor:
    return F.normalize(method.key_projector(method.key_backbone(view)), dim=1)


def test_temperature_follows_the_head() -> None:
    assert make().temperature == 0.2
    assert make(head="linear").temperature == 0.07
    assert make(head="linear", temperature=0.5).temperature == 0.5
    assert len(make(head="linear").projector) == 1


def test_loss_is_info_nce_against_the_queue_and_the_other_crops_of_the_step() -> None:
    method = make(queue=6).eval()
    method.queue.copy_(F.normalize(torch.randn(6, 128, generator=seeded(3)), dim=1))
    method.queue_case.copy_(torch.tensor([0, 0, 2, 9, -1, -1]))
    views = method.views(make_crops(method), seeded())
    expected = []
    for q, k in (("view_1", "view_2"), ("view_2", "view_1")):
        keys = keys_of(method, views[k])
        # cases 0 to 3: a key of the same case is no negative, an empty place neither
        allowed = [[n != case and n >= 0 for n in (0, 0, 2, 9, -1, -1, 0, 1, 2, 3)] for case in range(4)]
        query = method.projector(method.backbone(views[q])).detach().numpy()
        others = torch.cat([method.queue, keys])
        expected.append(oracle.info_nce(query, keys.numpy(), others.numpy(), 0.2, torch.tensor(allowed).numpy()))
    losses = method(views)
    assert losses.total.item() == pytest.approx(sum(e[0] for e in expected) / 2, rel=1e-4)
    assert losses.terms["contrast_accuracy"].item() == pytest.approx(sum(e[1] for e in expected) / 2)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("queue", "batches"), [(16, [4, 4, 4]), (7, [2, 3, 4, 1, 4]), (3, [4, 2])])
def test_the_queue_holds_the_latest_keys_whatever_the_batch(queue: int, batches: list[int], symmetric: bool) -> None:
    method = make(queue=queue, symmetric=symmetric, out=8, head_norm="layer")  # keys do not depend on each other
    expected: deque = deque(maxlen=queue)
    for number, batch in enumerate(batches):
        crops = make_crops(method, batch, seed=number)
        crops = dataclasses.replace(crops, case=crops.case + 10 * number)
        views = method.views(crops, seeded(number))
        for view in ("view_2", "view_1") if symmetric else ("view_2",):
            expected.extend(zip(crops.case.tolist(), keys_of(method, views[view])))
        method(views)
        method.after_step(0.5)
    order = (torch.arange(queue) + method.queue_next) % queue  # oldest first
    filled = [i for i in order.tolist() if method.queue_case[i] >= 0]
    assert method.queue_case[filled].tolist() == [case for case, _ in expected]
    assert torch.allclose(method.queue[filled], torch.stack([key for _, key in expected]), atol=1e-5)


def test_keys_of_the_same_case_are_no_negatives_unless_asked_for() -> None:
    same, other = make(), make(same_case_negatives=True)
    crops = dataclasses.replace(make_crops(same), case=torch.zeros(4, dtype=torch.long))
    assert [step(same, crops, s).item() for s in range(2)] == [0.0, 0.0]
    assert step(other, crops) > 0.1


def test_validation_changes_no_state() -> None:
    method = make()
    step(method, make_crops(method))
    before = copy.deepcopy(method.state_dict())
    method.eval()
    method(method.views(make_crops(method), seeded(1)))
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    queue = method.queue.clone()
    method.after_step(0.5)
    assert torch.equal(method.queue, queue), "a validation's keys must not enter the queue"


def test_the_key_encoder_follows_and_gets_no_gradient() -> None:
    method = make(momentum=0.9)
    query, key = method.backbone.encoder, method.key_backbone.module.encoder
    before = [p.clone() for p in key.parameters()]  # type: ignore[union-attr]
    step(method, make_crops(method))
    for p, old, online in zip(key.parameters(), before, query.parameters()):  # type: ignore[union-attr]
        assert p.grad is None
        assert not p.requires_grad
        assert torch.allclose(p, 0.9 * old + 0.1 * online, atol=1e-6)
    assert method.exported().encoder is query


def test_going_on_from_a_state_between_steps_is_the_same_run() -> None:
    method = make(queue=5)
    step(method, make_crops(method, 3))
    resumed = make(queue=5)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    for number in range(2):
        crops = make_crops(method, 3, seed=number)
        assert torch.equal(step(method, crops), step(resumed, crops))
    assert torch.equal(method.queue, resumed.queue)


def test_spread_over_processes_it_is_the_same_step_and_the_same_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(queue=9)
    step(method, make_crops(method, seed=1))
    method.zero_grad()
    views = method.views(make_crops(method), seeded())
    *parts, whole = assert_spreading_changes_nothing(monkeypatch, method, views, (3, 1))
    for part in parts:
        assert torch.allclose(part.queue, whole.queue, atol=1e-5)  # type: ignore[arg-type]
        assert torch.equal(part.queue_case, whole.queue_case)  # type: ignore[arg-type]


def test_it_learns_to_find_its_key() -> None:
    method = make_method("moco", SHAPES["2d"], queue=16, momentum=0.9)
    crops = make_crops(method)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 1e-3)
    for number in range(30):
        losses = method(method.views(crops, seeded()))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        method.after_step(0.5)
        if number == 4:  # the queue is full
            first = losses.total.item()
    assert losses.total < 0.5 * first
    assert losses.terms["contrast_accuracy"] == 1


def test_a_single_row_is_refused_with_a_way_out() -> None:
    method = make(symmetric=False)
    with pytest.raises(NnsslError, match="batch-size 2"):
        step(method, make_crops(method, 1))
    assert step(make(symmetric=False, head_norm="layer"), make_crops(method, 1)) == 0
    assert step(make(), make_crops(method, 1)) == 0


def test_advice() -> None:
    assert make().advice(1000, 8) == []
    assert "queue=512 is more than the 100 cases" in make().advice(100, 8)[0]
    assert "about 5.1 keys of every case" in make().advice(100, 8)[0]
    assert "nothing to contrast" in make().advice(1, 8)[0]
    assert "holds less than the 64 keys" in make(queue=50).advice(1000, 32)[0]
    assert make(queue=50, symmetric=False).advice(1000, 32) == []
