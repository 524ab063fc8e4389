"""Primus: read, described, and fitted to another patch size; position embeddings by linear interpolation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dynamic_network_architectures.architectures.primus import PrimusM

from nnssl.errors import NnsslError
from nnssl.transfer.adapt.positions import fit_position_embedding
from nnssl.transfer.adapt.primus import adapt_primus
from nnssl.transfer.describe import describe_file
from nnssl.transfer.readers.primus import grid_of
from nnssl.transfer.reading import read_weights
from tests.transfer.foreign_files import adaptation_plan, nnunet_checkpoint, openmind, trained_primus

PARTS = {
    "key_to_encoder": "eva", "key_to_stem": "down_projection", "keys_to_in_proj": ["down_projection.proj"],
    "key_to_lpe": "eva.pos_embed", "recommended_downstream_patchsize": [16, 16, 24],
}  # fmt: skip


def plan(name: str = "PrimusM", patch: tuple[int, ...] = (16, 16, 24), **changes: object) -> dict:
    made = adaptation_plan(name, **{**PARTS, **changes})
    made["pretrain_plan"]["configurations"]["onemmiso"]["patch_size"] = list(patch)
    return made


# -------------------------------------------------------------------- position embeddings


def places(grid: tuple[int, ...]) -> list[torch.Tensor]:
    """Relative place of every token in the patch, one tensor per axis."""
    axes = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in grid]
    return list(torch.meshgrid(*axes, indexing="ij"))


GRIDS = [((4,), (7,)), ((6,), (3,)), ((4, 6), (8, 5)), ((4, 4, 6), (6, 3, 9)), ((5, 5, 5), (2, 9, 5))]


@pytest.mark.parametrize(("old", "new"), GRIDS)
@pytest.mark.parametrize("flat", [True, False])
def test_a_constant_stays_and_a_linear_field_stays_in_the_interior(old: tuple, new: tuple, flat: bool) -> None:
    slopes = [2.0, -3.0, 0.5][: len(old)]

    def field(grid: tuple[int, ...]) -> torch.Tensor:
        linear = 1.0 + sum(s * p for s, p in zip(slopes, places(grid)))
        image = torch.stack([torch.full(grid, 7.0, dtype=torch.float64), linear])[None]
        return image.flatten(2).transpose(1, 2) if flat else image

    fitted = fit_position_embedding(field(old), old, new)
    wanted = field(new)
    assert fitted.shape == wanted.shape
    if flat:
        fitted, wanted = (t.transpose(1, 2).reshape(1, 2, *new) for t in (fitted, wanted))
    assert torch.allclose(fitted[:, 0], wanted[:, 0])
    inside = torch.ones(new, dtype=torch.bool)
    for n, place in zip(old, places(new)):
        inside &= (place >= 0.5 / n) & (place <= 1 - 0.5 / n)  # between the outermost tokens of the old grid
    assert inside.any()
    assert torch.allclose(fitted[0, 1][inside], wanted[0, 1][inside])


def test_the_same_grid_is_the_identity_and_another_is_refused() -> None:
    pos = torch.randn(1, 24, 5)
    assert torch.equal(fit_position_embedding(pos, (2, 3, 4), (2, 3, 4)), pos)
    with pytest.raises(NnsslError, match="2x3x5"):
        fit_position_embedding(pos, (2, 3, 5), (2, 3, 4))


# -------------------------------------------------------------------- reading


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_an_openmind_primus_is_read_and_described(tmp_path: Path, wrapper: str) -> None:
    network = trained_primus()
    state = {wrapper + k: v for k, v in network.state_dict().items()}
    torch.save(openmind({**state, f"{wrapper}decoder.x": torch.zeros(1)}, plan()), tmp_path / "p.pth")
    weights = read_weights(tmp_path / "p.pth")
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in weights.tensors.items())
    assert {k for k in network.state_dict() if k.startswith(("eva.", "down_"))} <= weights.tensors.keys()
    assert grid_of(weights) == (4, 4, 6)
    assert weights.architecture is not None
    assert weights.architecture["arch_kwargs"]["embed_dim"] == 96
    text = "\n".join(describe_file(tmp_path / "p.pth"))
    for words in (
        "(PrimusM)",
        "embed dim 96",
        "eva depth 2",
        "[4, 4, 4]",
        "encoder block 1",
        "stem",
        "left out",
        "decoder",
    ):
        assert words in text


def test_the_plan_may_name_its_parts_otherwise(tmp_path: Path) -> None:
    network = trained_primus()
    state = {f"encoder.{k}": v for k, v in network.state_dict().items()}
    other = plan(
        key_to_encoder="encoder.eva", key_to_stem="encoder.down_projection", key_to_lpe="encoder.eva.pos_embed"
    )
    torch.save(openmind(state, other), tmp_path / "p.pth")
    weights = read_weights(tmp_path / "p.pth")
    assert torch.equal(weights.tensors["eva.pos_embed"], network.state_dict()["eva.pos_embed"])


def test_a_patch_size_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    torch.save(openmind(trained_primus().state_dict(), plan(patch=(16, 16, 16))), tmp_path / "p.pth")
    with pytest.raises(NnsslError, match="does not say which patch size"):
        read_weights(tmp_path / "p.pth")


def test_a_primus_trained_by_nnunet_and_a_bare_one(unet_3d: dict, tmp_path: Path) -> None:
    network = trained_primus((8, 16, 16))
    torch.save(nnunet_checkpoint(network, unet_3d, trainer="nnUNet_Primus_M_Trainer"), tmp_path / "n.pth")
    weights = read_weights(tmp_path / "n.pth")
    assert grid_of(weights) == (2, 4, 4)
    assert weights.pretraining.channel_names == ("CT",)
    torch.save(trained_primus((12, 12, 12)).state_dict(), tmp_path / "b.pth")
    assert grid_of(read_weights(tmp_path / "b.pth")) == (3, 3, 3)


def test_heads_of_a_named_size_are_known() -> None:
    with torch.device("meta"):
        network = PrimusM(1, 2, (8, 8, 8), (160, 160, 160))
    from nnssl.transfer.readers.primus import _HEADS

    assert _HEADS[network.embed_dim] == network.eva.blocks[0].attn.num_heads


# -------------------------------------------------------------------- fitting


@pytest.mark.parametrize("registers", [0, 2])
def test_another_patch_size_gives_a_complete_state(tmp_path: Path, registers: int) -> None:
    network = trained_primus(num_register_tokens=registers)
    torch.save(openmind(network.state_dict(), plan()), tmp_path / "p.pth")
    weights = read_weights(tmp_path / "p.pth")
    target = trained_primus((24, 16, 16), channels=2, seed=5, num_register_tokens=registers)
    state, report = adapt_primus(
        weights.tensors, target.state_dict(), source_grid=grid_of(weights), target_grid=(6, 4, 4)
    )
    target.load_state_dict(state)
    assert report.encoder_coverage == 1
    assert report.how["encoder"] == {"positions 4x4x6 -> 6x4x4"}
    assert report.how["stem"] == {"1 -> 2 input channels"}
    assert set(report.new) == {"head"}
    assert torch.equal(
        state["eva.blocks.1.attn.q_proj.weight"], network.state_dict()["eva.blocks.1.attn.q_proj.weight"]
    )
    assert torch.equal(state["eva.pos_embed"][:, :registers], network.state_dict()["eva.pos_embed"][:, :registers])
    assert target(torch.zeros(1, 2, 24, 16, 16)).shape == (1, 3, 24, 16, 16)


def test_the_same_patch_size_computes_the_same(tmp_path: Path) -> None:
    network = trained_primus().eval()
    target = trained_primus(seed=5).eval()
    state, report = adapt_primus(
        network.state_dict(), target.state_dict(), source_grid=(4, 4, 6), target_grid=(4, 4, 6)
    )
    target.load_state_dict(state)
    target.up_projection.load_state_dict(network.up_projection.state_dict())
    x = torch.randn(1, 1, 16, 16, 24)
    assert torch.equal(network(x), target(x))
    assert not report.adapted


def test_another_width_is_refused() -> None:
    with pytest.raises(NnsslError, match="Width and size of a token must be those of the file"):
        adapt_primus(
            trained_primus().state_dict(), trained_primus(embed_dim=48).state_dict(),
            source_grid=(4, 4, 6), target_grid=(4, 4, 6),
        )  # fmt: skip
