"""Probes: known answers, chance, and nothing of a test part ever seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnssl.errors import NnsslError
from nnssl.evaluate.labels import TargetColumn, join_twins, read_target
from nnssl.evaluate.probe.answers import inner_splits, out_of_fold, outer_splits
from nnssl.evaluate.probe.run import Finding, GroupScores, _per_group, probe_target, sentence, table, write_findings
from nnssl.evaluate.probe.scores import METRICS, Scored, can_be_shuffled, score, scored, shuffled

CASES = tuple(f"p{i:02d}_{frame}" for i in range(40) for frame in "ab")
GROUPS = tuple(c[:3] for c in CASES)
RNG = np.random.default_rng(0)
PATIENT = np.repeat(RNG.normal(size=40), 2)
NOISE = {c: RNG.normal(size=24) for c in CASES}
INFORMED = {c: np.append(RNG.normal(size=23), PATIENT[i]) for i, c in enumerate(CASES)}


def column(values: np.ndarray, kind: str) -> TargetColumn:
    return TargetColumn("y", kind, CASES, values, GROUPS, ())  # type: ignore[arg-type]


def matrix(features: dict) -> np.ndarray:
    return np.stack([features[c] for c in CASES])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "regression"])
def test_what_is_in_the_features_is_found_and_noise_is_not(kind: str) -> None:
    values = np.where(PATIENT > 0, "yes", "no") if kind == "classes" else 3 * PATIENT + 1
    informed, noise = probe_target(
        column(values, kind), {"informed": INFORMED, "noise": NOISE}, [dict(NOISE)], permutations=19, seed=0
    )
    main = informed.main
    assert informed.scores[main].value > 0.7
    assert informed.readable
    assert informed.p == pytest.approx(1 / 20)
    assert not noise.readable
    assert noise.scores[main].gain == pytest.approx(0)
    assert noise.scores[main].gain_low <= 0 <= noise.scores[main].gain_high
    assert "nothing" in sentence(noise) or noise.p < 0.05


def test_repeats_of_the_largest_seed_are_seeds_too() -> None:
    values = np.where(PATIENT > 0, "yes", "no")
    (found,) = probe_target(column(values, "classes"), {"x": INFORMED}, [NOISE], permutations=0, seed=2**32 - 1)
    assert np.isfinite(found.scores[found.main].value)


def test_groups_never_cross() -> None:
    values = np.where(PATIENT > 0, "yes", "no")
    for kind, y in (("classes", values), ("regression", PATIENT)):
        for train, test in outer_splits(y, GROUPS, kind, 0):  # type: ignore[arg-type]
            assert not {GROUPS[i] for i in train} & {GROUPS[i] for i in test}


def test_two_frames_of_a_patient_do_not_help_each_other() -> None:
    """Features that only tell patients apart say nothing of a target that is random by patient."""
    identity = {c: np.eye(40)[i // 2] * 5 for i, c in enumerate(CASES)}
    values = np.repeat(np.random.default_rng(3).permutation(["yes", "no"] * 20), 2)
    answers = out_of_fold(matrix(identity), values, GROUPS, "classes", 0)
    assert score("balanced_accuracy", values, answers, np.unique(values)) < 0.65


def test_standardisation_sees_the_training_part_only() -> None:
    """A test row far outside must not move the answers to the others."""
    values = np.where(PATIENT > 0, "yes", "no")
    x = matrix(INFORMED)
    before = out_of_fold(x, values, GROUPS, "classes", 0)
    splits = outer_splits(values, GROUPS, "classes", 0)
    _, test = splits[0]
    moved = x.copy()
    moved[test[0]] += 1000
    after = out_of_fold(moved, values, GROUPS, "classes", 0)
    assert np.allclose(before[test[2:]], after[test[2:]])


def test_shuffling_moves_whole_patients() -> None:
    values = np.array([f"{g}{c[-1]}" for g, c in zip(GROUPS, CASES)])
    moved = shuffled(values, GROUPS, np.random.default_rng(0))
    assert sorted(moved) == sorted(values)
    assert (moved != values).mean() > 0.8
    for i in range(0, len(CASES), 2):
        assert moved[i][:3] == moved[i + 1][:3]
        assert moved[i][-1] == "a"


@pytest.mark.parametrize("kind", ["classes", "regression"])
def test_patients_of_different_sizes_swap_their_one_value(kind: str) -> None:
    """12 patients with 1 to 12 cases: swapping among those of one size would leave every case as it is."""
    groups = [f"p{i:02d}" for i in range(12) for _ in range(i + 1)]
    of_patient = np.array(["a", "b"] * 6) if kind == "classes" else np.arange(12.0)
    values = np.repeat(of_patient, range(1, 13))
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = shuffled(values, groups, rng)
        assert (moved != values).mean() > 0.1
        given = [set(moved[np.array(groups) == g]) for g in sorted(set(groups))]
        assert all(len(g) == 1 for g in given)
        assert sorted(v for g in given for v in g) == sorted(of_patient)
    assert can_be_shuffled(values, groups)


def test_there_is_no_p_where_a_shuffle_moves_next_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases of a patient differ, and hardly two patients have as many: such shuffles are the target itself."""
    sizes = [*range(3, 13), 1, 1]
    groups = [f"p{i:02d}" for i, size in enumerate(sizes) for _ in range(size)]
    values = np.random.default_rng(0).normal(size=len(groups))
    assert not can_be_shuffled(values, groups)
    assert can_be_shuffled(values, [f"p{i // 3}" for i in range(len(groups))])
    names = tuple(f"c{i}" for i in range(len(groups)))
    monkeypatch.setattr("nnssl.evaluate.probe.run.out_of_fold", lambda x, *_: x[:, 0])
    target = TargetColumn("y", "regression", names, values, tuple(groups), ())
    features = {name: np.array([v]) for name, v in zip(names, values)}
    noise = {name: np.array([v]) for name, v in zip(names, np.random.default_rng(1).normal(size=len(groups)))}
    (found,) = probe_target(target, {"x": features}, [noise], permutations=3, seed=0)
    assert (found.p, found.null_mean, found.null_high, found.readable) == (None, None, None, False)
    lines = write_findings([found], tmp_path, {})
    assert any(
        line.startswith("| y | x | r2 |") and line.endswith("| not available | not available |") for line in lines
    )
    assert "was not compared with chance" in lines[-1]
    assert json.loads((tmp_path / "summary.json").read_text())["findings"][0]["p"] is None
    assert (tmp_path / "results.csv").read_text().splitlines()[1].endswith(f",,,,{len(groups)},12")
    assert replace(found, p=0.05).readable


def test_a_score_and_its_interval_are_of_the_same_repeats() -> None:
    """One bad repeat and four perfect ones: the interval lies around their mean, whichever comes first."""
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=40), [f"p{i}" for i in range(40)]
    bad = rng.normal(size=40)
    first, last = (
        scored("r2", values, order, [[np.zeros(40)] * 5], groups)
        for order in ([bad, *[values] * 4], [*[values] * 4, bad])
    )
    for found in (first, last):
        assert found.low < found.value < found.high
        assert found.gain_low < found.gain < found.gain_high
    assert first.low == pytest.approx(last.low)


def test_the_gain_knows_how_much_random_encoders_differ() -> None:
    """An encoder that is one of the random ones gains nothing: the better half of them is no proof."""
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=200), [f"p{i}" for i in range(200)]
    random = [[values + scale * rng.normal(size=200)] for scale in (0.1, 0.5, 0.9)]
    found = scored("r2", values, random[0], random, groups)
    assert found.gain > 0.2
    assert found.gain_low <= 0
    assert scored("r2", values, [values], random, groups).gain_low > 0


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize(
    "metric,classes,scale",
    [
        *((m, n, 1.0) for m in METRICS["classes"] for n in (2, 3)),
        *((m, 2, s) for m in ("r2", "mae") for s in (1e-9, 1e9)),
    ],
)
def test_an_interval_is_that_of_scores_of_resampled_rows(metric: str, classes: int, scale: float) -> None:
    """Also of targets that are tiny or huge, and where a resample lacks a class."""
    rng = np.random.default_rng(1)
    index = np.arange(24) % classes
    index[4:] = index[4:] % 2  # a third class has two rows at most
    if metric in METRICS["classes"]:
        values, known = np.array(["a", "b", "c"])[index], np.array(["a", "b", "c"])[:classes]
        repeats = [rng.dirichlet(np.ones(classes), 24) for _ in range(2)]
    else:
        values, known = scale * (5 + rng.normal(size=24)), np.array([])
        repeats = [values + 0.5 * scale * rng.normal(size=24) for _ in range(2)]
    groups = [f"p{i // 2:02d}" for i in range(24)]
    found = scored(metric, values, repeats, [repeats], groups, seed=3)
    expected, drawn = [], np.random.default_rng(3).integers(0, 12, (500, 12))
    for row in drawn:
        rows = np.concatenate([[2 * i, 2 * i + 1] for i in row])
        expected.append(np.mean([score(metric, values[rows], a[rows], known) for a in repeats]))
    assert [found.low, found.high] == pytest.approx(np.nanquantile(expected, [0.025, 0.975]), rel=1e-6)


def test_scores_of_known_answers() -> None:
    known = np.array(["a", "b"])
    y = np.array(["a", "a", "b", "b"])
    right = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.2, 0.8]])
    assert score("balanced_accuracy", y, right, known) == 1
    assert score("auc", y, right[:, ::-1], known) == 0
    assert score("r2", np.array([1.0, 2, 3]), np.array([1.0, 2, 3]), known) == 1
    assert score("mae", np.array([1.0, 2]), np.array([2.0, 4]), known) == 1.5


def test_files(tmp_path: Path) -> None:
    found = probe_target(column(PATIENT, "regression"), {"x": INFORMED}, [NOISE], permutations=0, seed=0)
    lines = write_findings(found, tmp_path, {})
    assert {p.name for p in tmp_path.iterdir()} == {"results.csv", "summary.json", "report.md"}
    assert any("| y | x | r2 |" in line for line in lines)


def test_scores_within_groups() -> None:
    """Answers that are right for one group only, and a group with one class, which has no score."""
    side = {c: "left" if i < 40 else "right" for i, c in enumerate(CASES[:-2])}
    half = np.where(np.arange(80) < 40, PATIENT, 1.0)
    found = _per_group(column(PATIENT, "regression"), [half, half + 0.5], [[half * 0], [half * 0 + 1]], side)
    assert list(found) == ["left", "right"]
    assert (found["left"].rows, found["left"].groups, found["right"].rows) == (40, 20, 38)
    assert found["left"].scores["mae"] == pytest.approx(0.25)  # mean over repeats
    assert found["right"].scores["mae"] > 0.25
    expected = [score("mae", PATIENT[:40], np.full(40, v), np.unique(PATIENT)) for v in (0.0, 1.0)]
    assert found["left"].random["mae"] == pytest.approx(np.mean(expected))  # mean over encoders
    values = np.where(PATIENT > 0, "yes", "no")
    right = np.stack([values == "no", values == "yes"], 1).astype(float)
    found = _per_group(column(values, "classes"), [right], [[right]], dict(zip(CASES, values)) | {CASES[0]: "mixed"})
    assert found["yes"].scores == {}
    own = dict.fromkeys(CASES, "all")
    assert _per_group(column(values, "classes"), [right], [[right]], own)["all"].scores["balanced_accuracy"] == 1


def test_groups_have_a_table_of_their_own() -> None:
    values = [Scored(0.5, 0.4, 0.6, 0.1, 0.0, 0.4, 0.2, 0.5)] * 2
    groups = {"f": GroupScores(20, 10, {"r2": 0.7}, {"r2": 0.2}), "m": GroupScores(2, 1, {}, {})}
    found = Finding("y", "regression", "x", 22, 11, dict(zip(("r2", "mae"), values)), 0.0, 0.1, 0.01, groups)
    lines = table([found])
    assert "| y | x | f | 10 | r2 | 0.700 | 0.200 |" in lines
    assert not any("| m |" in line for line in lines)


def test_the_same_voxels_under_another_name_are_one_patient() -> None:
    target = column(PATIENT, "regression")
    digests = {c: c for c in CASES} | {"p03_a": "x", "p05_b": "x", "p05_a": "y", "p07_a": "y"}
    joined, twins = join_twins(target, digests)
    assert twins == [("p05_b", "p03_a"), ("p07_a", "p05_a")]
    of = dict(zip(CASES, joined.groups))
    assert of["p03_a"] == of["p05_a"] == of["p07_b"]
    assert len(set(joined.groups)) == 38
    assert join_twins(target, {}) == (target, [])
    assert join_twins(target, {"p03_a": "x", "p03_b": "x"})[1] == []


class TestTable:
    def write(self, tmp_path: Path, text: str) -> Path:
        (tmp_path / "t.csv").write_text(text)
        return tmp_path / "t.csv"

    def rows(self, value, head: str = "case,y", count: int = 12) -> str:
        return head + "\n" + "\n".join(f"c{i},{value(i)}" for i in range(count)) + "\n"

    cases = tuple(f"c{i}" for i in range(12))

    def test_kinds(self, tmp_path: Path) -> None:
        assert read_target(self.write(tmp_path, self.rows(lambda i: i * 1.5)), "y", self.cases, {}).kind == "regression"
        assert read_target(self.write(tmp_path, self.rows(lambda i: i % 2)), "y", self.cases, {}).kind == "classes"
        assert (
            read_target(self.write(tmp_path, self.rows(lambda i: i % 2)), "y:regression", self.cases, {}).kind
            == "regression"
        )

    def test_missing_values_are_left_out(self, tmp_path: Path) -> None:
        found = read_target(self.write(tmp_path, self.rows(lambda i: "" if i < 3 else i)), "y", self.cases, {})
        assert found.left_out == ("c0", "c1", "c2")

    @pytest.mark.parametrize("name", ["none", "None", "Unknown"])
    def test_none_is_a_class_and_no_number(self, tmp_path: Path, name: str) -> None:
        grades = read_target(self.write(tmp_path, self.rows(lambda i: name if i < 4 else "mild")), "y", self.cases, {})
        assert set(grades.values) == {name, "mild"}
        assert grades.left_out == ()
        ages = read_target(self.write(tmp_path, self.rows(lambda i: name if i < 1 else i)), "y", self.cases, {})
        assert (ages.kind, ages.left_out) == ("regression", ("c0",))
        codes = read_target(self.write(tmp_path, self.rows(lambda i: name if i < 4 else i % 2)), "y", self.cases, {})
        assert (codes.kind, set(codes.values)) == ("classes", {"0", "1"})

    def test_cases_without_a_value_are_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        read_target(self.write(tmp_path, self.rows(lambda i: i)), "y", self.cases, {})
        assert not caplog.messages
        read_target(self.write(tmp_path, self.rows(lambda i: "?" if i < 1 else i)), "y", (*self.cases, "d"), {})
        assert caplog.messages == ["2 of 13 cases have no value of 'y': c0, d"]

    def test_rows_of_patients_and_semicolons(self, tmp_path: Path) -> None:
        text = "patient;y\n" + "\n".join(f"p{i};{i % 2}" for i in range(6))
        found = read_target(self.write(tmp_path, text), "y", self.cases, {f"c{i}": f"p{i // 2}" for i in range(12)})
        assert found.groups[:4] == ("p0", "p0", "p1", "p1")
        assert found.values[:4].tolist() == ["0", "0", "1", "1"]

    @pytest.mark.parametrize(
        "text,target,message",
        [
            ("case,y\nc0,1\n", "z", "has no column 'z'"),
            ("case,y\n", "y", "no rows"),
            ("case,y\nx,1\ny,2\n", "y", "no case in common: the table has x, y; the dataset c0, c1, c2"),
            ("case,y\nc0,1\nc0,2\n", "y", "c0 stands twice"),
            ("case,y\nc0,1\nc1,1\n", "y", "only 2 of 12 cases"),
            ("case,y\n" + "".join(f"c{i},1\n" for i in range(12)), "y", "the same value"),
            ("case,y\n" + "".join(f"c{i},a{i}\n" for i in range(12)), "y:regression", "a0 is no number|is no number"),
            ("case,y\n" + "".join(f"c{i},{i}\n" for i in range(12)), "y:number", "after the colon"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, text: str, target: str, message: str) -> None:
        with pytest.raises(NnsslError, match=message):
            read_target(self.write(tmp_path, text), target, self.cases, {})


def test_too_few_patients() -> None:
    y = np.array(["a"] * 36 + ["b"] * 4)
    with pytest.raises(NnsslError, match="class 'b' has 2 patients"):
        outer_splits(y, [f"g{i // 2}" for i in range(40)], "classes", 0)
    with pytest.raises(NnsslError, match="4 patients are too few"):
        outer_splits(np.arange(8.0), [f"g{i // 2}" for i in range(8)], "regression", 0)


def test_many_features_that_say_nothing_answer_the_mean() -> None:
    """Hundreds of noise features on few rows must be shrunk to nothing, not fitted: R^2 near 0 and not far below."""
    rng = np.random.default_rng(5)
    values = rng.normal(size=80) * 20 + 100
    found = out_of_fold(rng.normal(size=(80, 500)), values, GROUPS, "regression", 0)
    assert score("r2", values, found, np.unique(values)) > -0.15


def test_inner_folds_keep_every_class_in_training() -> None:
    values = np.array(["a"] * 20 + ["b"] * 2)
    groups = [f"p{i}" for i in range(22)]
    for kept in (
        inner_splits(values, groups, "classes"),
        inner_splits(values, [*groups[:20], "p20", "p20"], "classes"),
    ):
        assert all(set(values[train]) == {"a", "b"} for train, _ in kept)
    assert len(inner_splits(values, groups, "classes")) == 2  # as many as the rare class has patients
    assert inner_splits(values, [*groups[:20], "p20", "p20"], "classes") == []
    assert len(inner_splits(np.arange(22.0), groups, "regression")) == 3
