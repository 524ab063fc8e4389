from __future__ import annotations

from pathlib import Path

from nnssl.data.joining import join_pools, without
from nnssl.data.pool import Pool, PoolCase, cases_by_dataset
from nnssl.data.subjects import groups


def pool(root: Path, *digests: str) -> Pool:
    """Cases case_0, case_1, ... of patients 1, 1, 2, 2, ..."""
    cases = [PoolCase(f"case_{i}", "p_3d", (9, 9, 9), False, d, subject=str(1 + i // 2)) for i, d in enumerate(digests)]
    return Pool(root, tuple(cases))


def test_cases_of_all_datasets_with_their_own_paths(tmp_path: Path) -> None:
    joined, doubled = join_pools({n: pool(tmp_path / n, f"{n}0", f"{n}1") for n in "AB"}, tmp_path)
    assert [joined.image_path(i) for i in range(4)] == [
        tmp_path / n / "p_3d" / f"case_{i}.b2nd" for n in "AB" for i in range(2)
    ]
    assert joined.body_path(3) == tmp_path / "B" / "p_3d" / "case_1_body.npy"
    assert doubled == {"A": 0, "B": 0}
    assert groups([c.subject for c in joined.cases]) == [0, 0, 2, 2], "patient 1 of A is not patient 1 of B"
    assert (
        joined.signature != join_pools({n: pool(tmp_path / n, f"{n}0", f"{n}1") for n in "BA"}, tmp_path)[0].signature
    )


def test_a_case_of_two_datasets_is_used_once(tmp_path: Path) -> None:
    pools = {"A": pool(tmp_path, "x", "y"), "B": pool(tmp_path, "z", "x", "x"), "C": pool(tmp_path, "", "")}
    joined, doubled = join_pools(pools, tmp_path)
    assert doubled == {"A": 0, "B": 2, "C": 0}, "unknown digests are no duplicates of each other"
    assert cases_by_dataset(joined) == {"A": 2, "B": 1, "C": 2}


def test_duplicates_within_a_dataset_are_its_own_business(tmp_path: Path) -> None:
    joined, doubled = join_pools({"A": pool(tmp_path, "x", "x"), "B": pool(tmp_path, "y")}, tmp_path)
    assert len(joined) == 3 and doubled == {"A": 0, "B": 0}


def test_validation_cases_of_one_are_held_out_of_all(tmp_path: Path) -> None:
    training, _ = join_pools({"A": pool(tmp_path, "x", "y"), "B": pool(tmp_path, "z", "v", "")}, tmp_path)
    validation, _ = join_pools({"A": pool(tmp_path, "v"), "B": pool(tmp_path, "w", "")}, tmp_path)
    left, count = without(training, validation)
    assert count == 1
    assert left.digests == ["x", "y", "z"] and len(left) == 4
