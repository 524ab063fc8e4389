from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnssl.data.pool import Pool, PoolCase, body_positions, read_pool, split_pool, write_pool
from nnssl.data.thinning import KeptSlices
from nnssl.errors import MissingError, NnsslError


def pool(tmp_path: Path, labelled: int, unlabelled: int) -> Pool:
    cases = [PoolCase(f"l{i}", "d", (9, 9, 9), True, f"{i:02d}") for i in range(labelled)]
    cases += [PoolCase(f"u{i}", "d_unlabelled", (9, 9, 9), False, f"1{i}") for i in range(unlabelled)]
    return Pool(tmp_path, tuple(cases))


def test_index_round_trip(tmp_path: Path) -> None:
    write_pool(pool(tmp_path, 2, 3), "plans_3d")
    assert read_pool(tmp_path, "plans_3d") == pool(tmp_path, 2, 3)


def test_an_index_without_origin_is_read(tmp_path: Path) -> None:
    """The first indices had none."""
    write_pool(pool(tmp_path, 2, 0), "plans_3d")
    file = tmp_path / "plans_3d_pool.json"
    content = json.loads(file.read_text())
    del content["origin"]
    file.write_text(json.dumps(content))
    assert read_pool(tmp_path, "plans_3d") == pool(tmp_path, 2, 0)


def test_a_missing_pool_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="run nnssl_plan_and_preprocess"):
        read_pool(tmp_path, "plans_3d")


def test_all_trains_on_everything(tmp_path: Path) -> None:
    training, validation = split_pool(pool(tmp_path, 2, 3), "all", None)
    assert len(training) == len(validation) == 5


def test_a_fold_keeps_its_validation_cases_out(tmp_path: Path) -> None:
    splits = [{"train": ["l0", "l1"], "val": ["l2"]}]
    training, validation = split_pool(pool(tmp_path, 3, 2), 0, splits)
    assert [c.name for c in validation.cases] == ["l2"]
    assert {c.name for c in training.cases} == {"l0", "l1", "u0", "u1"}


def test_unlabelled_pools_are_split_like_nnunet_splits(tmp_path: Path) -> None:
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    names = [f"u{i}" for i in range(10)]
    for fold, expected in enumerate(generate_crossval_split(names, seed=12345, n_splits=5)):
        _, validation = split_pool(pool(tmp_path, 0, 10), fold, None)
        assert {c.name for c in validation.cases} == set(expected["val"])


def of_subjects(tmp_path: Path, subjects: str, labelled: bool = False) -> Pool:
    """Cases c00, c01, ... of these one-letter subjects; a dash is an unknown one."""
    letters = [letter.replace("-", "") for letter in subjects]
    cases = [PoolCase(f"c{i:02d}", "d", (9, 9, 9), labelled, f"{i:02d}", subject=s) for i, s in enumerate(letters)]
    return Pool(tmp_path, tuple(cases))


def test_other_scans_of_held_out_subjects_do_not_train(tmp_path: Path) -> None:
    p = of_subjects(tmp_path, "aabb-c-a")
    p = replace(p, cases=tuple(replace(c, labelled=i < 4) for i, c in enumerate(p.cases)))
    training, validation = split_pool(p, 0, [{"train": ["c01", "c02", "c03"], "val": ["c00", "c04"]}])
    assert [c.name for c in validation.cases] == ["c00", "c04"]
    assert [c.name for c in training.cases] == ["c02", "c03", "c05", "c06"], "those of unknown subjects stay"
    everything_else = p.subset({c.name for c in p.cases} - {"c00", "c04"})
    assert training.signature != everything_else.signature, "a run that trained on them cannot be continued unnoticed"


def test_pools_without_splits_are_split_by_subject(tmp_path: Path) -> None:
    p = of_subjects(tmp_path, "abcdefgabcdefg-aaa-")
    seen: list[str] = []
    for fold in range(5):
        training, validation = split_pool(p, fold, None)
        assert (training, validation) == split_pool(p, fold, None)
        assert not {c.subject for c in training.cases if c.subject} & {c.subject for c in validation.cases}
        assert len(training) + len(validation) == len(p)
        seen += [c.name for c in validation.cases]
    assert sorted(seen) == [c.name for c in p.cases]
    with pytest.raises(NnsslError, match="fold 0 needs at least 5 subjects to split, there are 4"):
        split_pool(of_subjects(tmp_path, "aabbccdd"), 0, None)


@pytest.mark.parametrize("labelled", [True, False])
def test_cases_of_a_subject_of_their_own_are_split_as_ever(tmp_path: Path, labelled: bool) -> None:
    """So that runs that began before subjects were looked at can be continued; whatever the subjects are called."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    alone, unknown = (of_subjects(tmp_path, text, labelled) for text in ("zyxwvutsrqp", "-" * 11))
    names = [c.name for c in unknown.cases]
    for fold, expected in enumerate(generate_crossval_split(names, seed=12345, n_splits=5)):
        for p in (alone, unknown):
            training, validation = split_pool(p, fold, None)
            assert [c.name for c in training.cases] == list(expected["train"])
            assert [c.name for c in validation.cases] == list(expected["val"])
            assert training.signature == unknown.subset(set(expected["train"])).signature


def test_what_nnunet_will_validate_on_is_held_out_whatever_its_subject(tmp_path: Path) -> None:
    """nnU-Net makes its split by case; with a split by subject here, some of its validation cases would have been seen."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    p = of_subjects(tmp_path, "aabcdefghijk", labelled=True)
    for fold, expected in enumerate(generate_crossval_split([c.name for c in p.cases], seed=12345, n_splits=5)):
        training, validation = split_pool(p, fold, None)
        assert [c.name for c in validation.cases] == list(expected["val"])
        assert not {c.subject for c in training.cases} & {c.subject for c in validation.cases}
    with pytest.raises(NnsslError, match=r"leaves 0 training and 2 validation cases [(]8 are further scans"):
        split_pool(of_subjects(tmp_path, "aaaaaaaaaa", labelled=True), 0, None)


def test_wrong_folds_are_clear(tmp_path: Path) -> None:
    with pytest.raises(NnsslError, match="at least 5 cases"):
        split_pool(pool(tmp_path, 0, 3), 0, None)
    with pytest.raises(NnsslError, match="folds 0 to 4"):
        split_pool(pool(tmp_path, 0, 10), 7, None)


def test_signatures_of_one_dataset_are_those_of_the_first_version(tmp_path: Path) -> None:
    """So that runs that began with it can be continued. Weights and kept slices change what a run sees."""
    p = pool(tmp_path, 2, 3)
    text = repr([(c.name, c.shape, c.digest) for c in p.cases])
    assert p.signature == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    kept = KeptSlices.of_cases([[0]] * 5)
    others = [
        replace(p, weights=(1.0,) * 4 + (2.0,)),
        replace(p, kept=kept),
        replace(p, cases=tuple(replace(c, dataset="Dataset500_X") for c in p.cases)),
    ]
    assert len({p.signature, *(other.signature for other in others)}) == 4


def test_what_a_run_adds_is_not_in_the_index(tmp_path: Path) -> None:
    p = pool(tmp_path, 1, 0)
    write_pool(replace(p, cases=(replace(p.cases[0], dataset="Dataset500_X"),)), "plans_3d")
    assert "dataset" not in json.loads((tmp_path / "plans_3d_pool.json").read_text())["cases"][0]


@pytest.mark.parametrize(
    "content",
    [
        np.zeros((0, 3), np.int32),
        np.zeros((5, 2), np.int32),
        np.zeros((5, 3), np.int64),
        np.zeros(15, np.int32),
        np.array([None] * 3),
        b"",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<i4', 'fortran_order': False, 'shape': (10000000000, 3), }"
        + b" " * 40
        + b"\n",
    ],
    ids=lambda c: f"{c.shape} {c.dtype}" if isinstance(c, np.ndarray) else f"{len(c)} bytes",
)
def test_damaged_body_positions_are_named(tmp_path: Path, content: np.ndarray | bytes) -> None:
    """No place for a crop, or an array that needs more bytes than there are; and never a pickle."""
    cases = (PoolCase("a", "d", (9, 9, 9), False, body=5),)
    (tmp_path / "d").mkdir()
    path = tmp_path / "d" / "a_body.npy"
    np.save(path, np.ones((5, 3), np.int32))
    found = body_positions(Pool(tmp_path, cases), 0)
    assert found is not None and found.shape == (5, 3)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(
        NnsslError, match=r"a_body\.npy (is damaged|cannot be read) .* run nnssl_plan_and_preprocess again"
    ):
        body_positions(Pool(tmp_path, cases), 0)
