"""Names and contents of encoder files: what is put in comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnssl.transfer.adapt.keys import canonical, first_name, is_second_name
from nnssl.transfer.encoder_file import EncoderFile, read_encoder, write_encoder
from nnssl.transfer.names import first_names, rename, strip_wrappers

WORDS = st.sampled_from(["encoder", "decoder", "stages", "0", "1", "blocks", "conv", "norm", "weight", "a_b"])
NAMES = st.lists(WORDS, min_size=1, max_size=5).map(".".join)
WEIGHTS = st.dictionaries(NAMES, st.integers(0, 9).map(lambda n: torch.full((2,), float(n))), min_size=1, max_size=6)
WRAPPERS = st.lists(st.sampled_from(["module", "_orig_mod", "_fsdp_wrapped_module"]), max_size=3)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(weights=WEIGHTS, wrappers=WRAPPERS)
def test_wrappers_come_off(weights: dict[str, torch.Tensor], wrappers: list[str]) -> None:
    wrapped = {".".join([*wrappers, key]): value for key, value in weights.items()}
    found, notes = strip_wrappers(wrapped)
    assert found.keys() == weights.keys()
    assert all(found[key] is weights[key] for key in weights)
    assert bool(notes) == bool(wrappers)


@given(weights=WEIGHTS)
def test_names_that_are_mapped_there_and_back(weights: dict[str, torch.Tensor]) -> None:
    there, _ = rename({f"old.{k}": v for k, v in weights.items()}, "old.=new.", "file")
    assert set(there) == {f"new.{k}" for k in weights}
    back, _ = rename(there, "new.", "file")
    assert back.keys() == weights.keys()
    assert all(back[k] is weights[k] for k in weights)


UNET_NAMES = st.builds(
    lambda part, stage, block, conv, name: f"{part}.stages.{stage}.{block}.convs.{conv}.{name}",
    st.sampled_from(["encoder", "decoder"]), st.integers(0, 5), st.integers(0, 3), st.integers(0, 2),
    st.sampled_from(["conv.weight", "conv.bias", "norm.weight", "norm.bias"]),
)  # fmt: skip


@given(names=st.sets(UNET_NAMES, min_size=1, max_size=8))
def test_second_names_lead_to_the_first(names: set[str]) -> None:
    """As dynamic_network_architectures doubles them; the roles of tensors never collide."""
    weights = {name: torch.tensor(float(i)) for i, name in enumerate(sorted(names))}
    doubled = dict(weights)
    for name, value in weights.items():
        second = name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")
        assert is_second_name(second) and first_name(second) == name and first_name(name) == name
        doubled[second] = value
        if name.startswith("encoder."):
            doubled[f"decoder.{name}"] = value
            assert first_name(f"decoder.{second}") == name
    found, notes = first_names(doubled, "file")
    assert found.keys() == weights.keys() and not notes
    assert len({canonical(name, 6) for name in names}) == len(names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@given(
    weights=WEIGHTS,
    about=st.dictionaries(st.text(max_size=5), PLAIN, max_size=4),
    citations=st.lists(st.text(max_size=8), max_size=2),
)
def test_an_encoder_file_holds_what_was_put_in(
    folder: Path, ending: str, weights: dict[str, Any], about: dict[str, Any], citations: list[str]
) -> None:
    path = folder / f"encoder.{ending}"
    write_encoder(EncoderFile(weights, {"plan": about}, about, citations), path)
    found = read_encoder(path)
    assert found.provenance == about and found.nnssl_adaptation_plan == {"plan": about}
    assert list(found.citations) == citations
    assert found.network_weights.keys() == weights.keys()
    assert all(torch.equal(found.network_weights[k], v) for k, v in weights.items())
