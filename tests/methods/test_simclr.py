from __future__ import annotations

import dataclasses

import pytest
import torch

from nnssl.methods.simclr import SimCLR
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded
from tests.methods.spread import assert_spreading_changes_nothing
from tests.oracles import nt_xent as oracle


def make(shape: str = "2d", **options: object) -> SimCLR:
    method = make_method("simclr", SHAPES[shape], **options)
    assert isinstance(method, SimCLR)
    liven(method)
    return method


def test_loss_is_nt_xent_of_the_projected_views() -> None:
    method = make(temperature=0.3).eval()
    views = method.views(make_crops(method), seeded())
    losses = method(views)
    z1, z2 = (method.projector(method.backbone(views[v])).detach().numpy() for v in ("view_1", "view_2"))
    loss, accuracy = oracle.nt_xent(z1, z2, 0.3, 1 - torch.eye(4).numpy())
    assert losses.total.item() == pytest.approx(loss, rel=1e-4)
    assert losses.terms["contrast_accuracy"].item() == pytest.approx(accuracy)


def test_crops_of_one_case_are_no_negatives_unless_asked_for() -> None:
    method, other = make(), make(same_case_negatives=True)
    crops = make_crops(method)
    one_case = dataclasses.replace(crops, case=torch.zeros(4, dtype=torch.long))
    assert method(method.views(one_case, seeded())).total == 0
    assert other(other.views(one_case, seeded())).total > 0.1
    assert torch.equal(other(other.views(one_case, seeded())).total, other(other.views(crops, seeded())).total)


def test_views_differ_and_follow_from_the_generator() -> None:
    method = make().eval()
    crops = make_crops(method)
    views, again, other = (method.views(crops, seeded(s)) for s in (0, 0, 1))
    assert not torch.equal(views["view_1"], views["view_2"])
    assert torch.equal(views["view_2"], again["view_2"])
    assert not torch.equal(views["view_1"], other["view_1"])


def test_the_second_view_may_come_from_another_scan_of_the_subject() -> None:
    method, plain = make(positives="subject").eval(), make()
    assert method.wants_partner
    assert not plain.wants_partner
    crops = make_crops(plain)
    partners = (make_crops(plain, seed=s) for s in (1, 2))
    views, other = (method.views(dataclasses.replace(crops, partner=p), seeded()) for p in partners)
    assert torch.equal(views["view_1"], other["view_1"])
    assert not torch.equal(views["view_2"], other["view_2"])


@pytest.mark.parametrize("head_norm", ["layer", "batch"])
def test_spread_over_processes_it_is_the_same_step(monkeypatch: pytest.MonkeyPatch, head_norm: str) -> None:
    method = make(head_norm=head_norm)
    views = method.views(make_crops(method), seeded())
    assert_spreading_changes_nothing(monkeypatch, method, views, (3, 1))


def test_it_learns_to_tell_crops_apart() -> None:
    method = make_method("simclr", SHAPES["2d"])
    views = method.views(make_crops(method), seeded())
    optimizer = torch.optim.AdamW(method.parameters(), 1e-3)
    for _ in range(20):
        losses = method(views)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.total < 0.2
    assert losses.terms["contrast_accuracy"] == 1


def test_collapse_metrics_come_from_the_validation_only() -> None:
    method = make()
    views = method.views(make_crops(method, batch=8), seeded())
    method(views)
    assert method.diagnostics() == {}
    method.eval()(views)
    assert set(method.diagnostics()) == {"embedding_std", "effective_rank", "knn_agreement"}
    assert method.diagnostics() == {}, "each validation starts anew"
    method({k: v[:4] for k, v in views.items()})
    assert set(method.diagnostics()) == {"embedding_std", "knn_agreement"}, "four crops cannot have a rank to speak of"


def test_what_is_exported_is_the_encoder_alone() -> None:
    method = make()
    exported = method.exported()
    assert exported.encoder is method.backbone.encoder
    assert exported.decoder is None


def test_advice_counts_negatives() -> None:
    assert make().advice(100, 8) == []
    assert "only 2 negatives" in make().advice(100, 2)[0]
