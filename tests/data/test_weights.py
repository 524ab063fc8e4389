from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnssl.data.pool import Pool, PoolCase
from nnssl.data.thinning import KeptSlices
from nnssl.data.weights import balanced, dataset_shares, put_weights, read_weights
from nnssl.errors import MissingError, NnsslError


def pool(*cases: tuple[str, str], slices: int = 10) -> Pool:
    """Cases given as (dataset, subject), named c0, c1, ..."""
    return Pool(
        Path("nowhere"),
        tuple(
            PoolCase(f"c{i}", "x", (slices, 9, 9), False, subject=who, dataset=dataset)
            for i, (dataset, who) in enumerate(cases)
        ),
    )


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "weights.csv"
    path.write_text(text, encoding="utf-8")
    return path


def shares(p: Pool) -> np.ndarray:
    weights = np.array(p.weights or np.ones(len(p)))
    return weights / weights.sum()


FRAMES = [("", "a")] * 6 + [("", "b")] * 2 + [("", "")]
"""A patient with six frames, one with two, one scan of somebody unknown."""


def test_no_weights_stay_no_weights() -> None:
    """Empty weights are what keeps the draws of older runs."""
    p = pool(*FRAMES)
    assert balanced(p) == p
    assert balanced(replace(p, weights=(3.0,) * 9)).weights == ()


def test_subjects_are_drawn_evenly() -> None:
    weighed = balanced(pool(*FRAMES), "subject")
    np.testing.assert_allclose(shares(weighed), [1 / 18] * 6 + [1 / 6] * 2 + [1 / 3])


def test_a_subjects_weight_is_the_mean_of_its_cases() -> None:
    weighed = balanced(replace(pool(*FRAMES), weights=(2.0,) * 6 + (1.0, 3.0) + (1.0,)), "subject")
    np.testing.assert_allclose(shares(weighed), [0.4 / 6] * 6 + [0.1, 0.3] + [0.2])


def test_datasets_and_their_weights() -> None:
    p = pool(*[("A", "")] * 6, *[("B", "b")] * 2, ("B", ""))
    assert dataset_shares(balanced(p)) == pytest.approx({"A": 2 / 3, "B": 1 / 3})
    assert dataset_shares(balanced(p, "case", {"A": 1, "B": 4})) == pytest.approx({"A": 1 / 3, "B": 2 / 3})
    assert dataset_shares(balanced(p, "dataset", {"A": 1, "B": 3})) == pytest.approx({"A": 0.25, "B": 0.75})
    both = balanced(p, "dataset+subject")
    np.testing.assert_allclose(shares(both), [1 / 12] * 6 + [1 / 8] * 2 + [1 / 4])


def test_thinning_does_not_change_the_odds_of_the_slices_that_stay() -> None:
    p = pool(("", ""), ("", ""), slices=10)
    kept = KeptSlices.of_cases([np.arange(10), np.array([4, 8])])
    weighed = balanced(Pool(p.root, p.cases, kept=kept))
    per_slice = shares(weighed) / kept.counts()
    assert per_slice[0] == pytest.approx(per_slice[1])


def test_a_table(tmp_path: Path) -> None:
    found = read_weights(table(tmp_path, "\ufeffcase,age,weight\nc0,50,2\nc8, 60 ,0.5\nother,1,1\n"))
    weighted, used = put_weights(pool(*FRAMES), found, "Dataset500_X")
    assert weighted.weights == (2, *[1] * 7, 0.5)
    assert used == {("", "c0"), ("", "c8")}


def test_a_table_for_several_datasets(tmp_path: Path) -> None:
    p = Pool(Path("x"), tuple(PoolCase("c0", "x", (9, 9, 9), False, dataset=d) for d in ("Dataset1_A", "Dataset2_B")))
    with pytest.raises(NnsslError, match="add a column 'dataset'"):
        put_weights(p, read_weights(table(tmp_path, "case,weight\nc0,3\n")), "Dataset1_A")
    found = read_weights(table(tmp_path, "case,dataset,weight\nc0,Dataset2_B,3\n"))
    assert put_weights(p, found, "Dataset1_A")[0].weights == (1, 3)


def test_weight_0_leaves_a_case_out(tmp_path: Path) -> None:
    weighted, _ = put_weights(pool(*FRAMES), read_weights(table(tmp_path, "case,weight\nc0,0\nc1,2\n")), "Dataset500_X")
    assert [c.name for c in weighted.cases] == [f"c{i}" for i in range(1, 9)]
    assert weighted.weights == (2, *[1] * 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,weight\nx,1\n", "it has: name, weight"),
        ("", "it has: none"),
        ("case,weight\nx,heavy\n", "case x: weight 'heavy'"),
        ("case,weight\nx,-1\n", "case x: weight '-1'"),
        ("case,weight\nx,nan\n", "weight 'nan'"),
        ("case,weight\nx\n", "weight ''"),
        ("case,weight\nx,1\nx,2\n", "case x is there twice"),
    ],
)
def test_bad_tables_are_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(NnsslError, match=said) as caught:
        read_weights(table(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_nothing_left_or_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NnsslError, match="every case the weight 0"):
        put_weights(
            pool(*FRAMES), read_weights(table(tmp_path, "case,weight\n" + "c%d,0\n" * 9 % tuple(range(9)))), "A"
        )
    with pytest.raises(MissingError, match="does not exist"):
        read_weights(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00case")
    with pytest.raises(NnsslError, match="not a readable CSV"):
        read_weights(tmp_path / "binary.csv")
