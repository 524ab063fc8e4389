"""What every method owes its users, on 2D, 3D, anisotropic, plain and two-channel plans in miniature."""

from __future__ import annotations

import copy

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.methods import METHODS, CropBatch, Method, Views, get_method
from nnssl.methods.composite import Composite
from nnssl.networks import build_unet
from tests.methods.cases import SHAPES, Shape, architecture, liven, make_crops, make_method, seeded

NAMES = [*sorted(METHODS), "spark+simclr"]


# Targets that move (a teacher, a centre, a queue that fills) hide whether a loss can be lowered: here they nearly stand.
STILL = {
    "dino": {"momentum_start": 0.9999, "centre_momentum": 0.999, "freeze": 0.0},
    "ibot": {"momentum_start": 0.9999, "centre_momentum": 0.999, "freeze": 0.0},
    "smit": {"momentum_start": 0.9999, "centre_momentum": 0.999, "freeze": 0.0},
    "moco": {"momentum": 0.9999, "queue": 1},
    "swav": {"queue": 0, "freeze": 0.0},
}


RATE = {"dino": 5e-4, "ibot": 5e-4}  # the default; at six times as much the teacher drifts to equal assignments


def train(method: Method, steps: int, lr: float, views: Views | None = None) -> list[float]:
    """Optimise as the trainer does, on fixed views or on new ones each step; returns the losses.

    Where a teacher sets the target, less the target's entropy: the loss cannot fall below it, and it moves.
    """
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr, weight_decay=0)
    crops = make_crops(method)
    losses = []
    for step in range(steps):
        shown = views if views is not None else method.views(crops, seeded(step))
        torch.manual_seed(step)
        answer = method(shown)
        loss = answer.total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 12)
        optimizer.step()
        method.after_step((step + 1) / steps)
        losses.append(float(loss.detach() - answer.terms.get("teacher_entropy", 0.0)))
    return losses


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
class TestOnEveryShape:
    def test_gradient_reaches_the_encoder_and_no_teacher(self, name: str, shape: str) -> None:
        method = make_method(name, SHAPES[shape]).train()
        liven(method)
        views = method.views(make_crops(method), seeded())
        assert all(len(v) == 4 for v in views.values()), "one row per crop"
        losses = method(views)
        assert torch.isfinite(losses.total)
        assert all(not t.requires_grad for t in losses.terms.values())
        losses.total.backward()
        for key, parameter in method.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"{key} is unused: distributed training would stall"
                assert torch.isfinite(parameter.grad).all(), key
            else:
                assert parameter.grad is None, key
        exported = method.exported()
        trained = {id(p) for p in method.parameters() if p.requires_grad}
        student = [p for p in exported.encoder.parameters() if id(p) in trained]
        # biases before an instance norm cannot matter; every weight must
        assert all(p.grad.abs().sum() > 0 for p in student if p.ndim > 1)

    def test_exports_the_plans_own_parts(self, name: str, shape: str) -> None:
        method = make_method(name, SHAPES[shape])
        stock = build_unet(architecture(SHAPES[shape]), SHAPES[shape].channels, 4)
        exported = method.exported()
        theirs = stock.encoder.state_dict()
        assert {k: v.shape for k, v in exported.encoder.state_dict().items()} == {k: v.shape for k, v in theirs.items()}
        if exported.decoder is not None:
            kept = {k for k in stock.decoder.state_dict() if not k.startswith("seg_layers.")}
            assert {k for k in exported.decoder.state_dict() if not k.startswith("seg_layers.")} == kept

    def test_validation_changes_nothing_and_repeats(self, name: str, shape: str) -> None:
        method = make_method(name, SHAPES[shape])
        train(method, 2, 1e-3)
        method.eval()
        before = copy.deepcopy(method.state_dict())
        crops = make_crops(method, seed=3)
        with torch.no_grad():
            first, second = (method(method.views(crops, seeded(5))).total for _ in range(2))
        assert torch.equal(first, second), "validation must be the same task every time"
        assert torch.isfinite(first)
        after = method.state_dict()
        assert all(torch.equal(before[k], after[k]) for k in before), "validation must leave no trace"
        diagnostics = method.diagnostics()
        assert all(isinstance(v, float) for v in diagnostics.values())
        assert all(isinstance(line, str) for line in method.health({**diagnostics, "train_loss": 0.1, "epoch": 0}))

    def test_previews(self, name: str, shape: str) -> None:
        method = make_method(name, SHAPES[shape]).train()
        pictures = method.preview(method.views(make_crops(method), seeded()))
        assert len(pictures) >= 2
        for key, picture in pictures.items():
            assert picture.shape[:2] == (4, SHAPES[shape].channels), key
            assert picture.ndim in (4, 5), key
            assert torch.isfinite(picture).any(), key

    def test_small_batches(self, name: str, shape: str) -> None:
        for batch in (1, 2):
            method = make_method(name, SHAPES[shape]).train()
            loss = method(method.views(make_crops(method, batch=batch), seeded())).total
            assert torch.isfinite(loss)
            loss.backward()
            assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_overfits_fixed_views(name: str) -> None:
    method = make_method(name, SHAPES["3d"], **STILL.get(name, {})).train()
    views = method.views(make_crops(method), seeded())
    losses = train(method, 60, RATE.get(name, 3e-3), views)
    start = max(losses[:15]) if name in STILL else losses[0]  # a teacher's first targets are easier than its next ones
    assert losses[-1] < start - 0.1 * abs(start), losses[::10]


@pytest.mark.parametrize("name", NAMES)
def test_state_is_complete(name: str) -> None:
    """Two steps, saved and loaded into a fresh method, then two more: as if nothing had happened."""
    straight, first = (make_method(name, SHAPES["2d"]).train() for _ in range(2))
    crops = make_crops(straight)

    def run(method: Method, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            loss = method(method.views(crops, seeded(step))).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.after_step((step + 1) / 4)

    def optimizer_of(method: Method) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 1e-3)

    run(straight, optimizer_of(straight), range(4))
    optimizer = optimizer_of(first)
    run(first, optimizer, range(2))
    second = make_method(name, SHAPES["2d"], seed=9).train()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    again = optimizer_of(second)
    again.load_state_dict(optimizer.state_dict())
    run(second, again, range(2, 4))
    wanted, got = straight.state_dict(), second.state_dict()
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[k], got[k]) for k in wanted), [
        k for k in wanted if not torch.equal(wanted[k], got[k])
    ]


@pytest.mark.parametrize("name", NAMES)
def test_padding_alone_is_survived(name: str) -> None:
    """A crop without any image, which a pool of tiny cases can produce."""
    method = make_method(name, SHAPES["3d"]).train()
    crops = make_crops(method)
    nothing = CropBatch(torch.zeros_like(crops.images), torch.zeros_like(crops.inside), crops.case, crops.partner)
    loss = method(method.views(nothing, seeded())).total
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_names_agree(name: str) -> None:
    cls = get_method(name)
    assert cls.name == name
    assert METHODS[name].endswith(f":{cls.__name__}")
    assert cls.citation
    assert cls.__doc__
    for key, field in cls.Config.model_fields.items():
        if not issubclass(cls, Composite):
            assert field.description, f"{name}: {key} has no description"


def test_partners_take_the_second_view() -> None:
    for name in NAMES:
        cls = get_method(name)
        if "positives" not in cls.Config.model_fields:
            continue
        method = make_method(name, Shape(**vars(SHAPES["2d"])), positives="subject").train()
        assert method.wants_partner
        crops = make_crops(method)
        assert crops.partner is not None
        blank = CropBatch(crops.images, crops.inside, crops.case, CropBatch(*(torch.zeros_like(t) for t in (
            crops.partner.images, crops.partner.inside, crops.partner.case))))  # fmt: skip
        views, without = (method.views(c, seeded()) for c in (crops, blank))
        assert any(not torch.equal(views[k], without[k]) for k in views), name


def test_unknown_parts_are_named() -> None:
    with pytest.raises(NnsslError, match="simclr"):
        get_method("spark+simclrr")
