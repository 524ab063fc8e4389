from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnssl.data.pool import Pool, PoolCase
from nnssl.data.sampling import TRAINING, CropPlace, CropSampler
from nnssl.data.subjects import groups, persons, read_subjects, scans_of_subjects
from nnssl.errors import NnsslError


def test_names_that_say_it_themselves(tmp_path: Path) -> None:
    names = ["patient001_frame01", "patient001_frame12", "sub-A3_ses-1_T1w", "sub-A3_ses-2_T1w", "hippocampus_001"]
    assert read_subjects(tmp_path, names) == {
        "patient001_frame01": "patient001",
        "patient001_frame12": "patient001",
        "sub-A3_ses-1_T1w": "sub-A3",
        "sub-A3_ses-2_T1w": "sub-A3",
    }


def test_a_table_has_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case,patient,group\npatient001_frame01,7,DCM\nx,8,NOR\n")
    assert read_subjects(tmp_path, ["patient001_frame01", "x", "y"]) == {"patient001_frame01": "7", "x": "8"}
    (tmp_path / "subjects.csv").write_text("\ufeffcase,subject\nx,a\ny,a\n", encoding="utf-8")
    assert read_subjects(tmp_path, ["x", "y", "z"]) == {"x": "a", "y": "a"}
    (tmp_path / "subjects.csv").write_text("name,who\nx,a\n")
    with pytest.raises(NnsslError, match="column 'case'"):
        read_subjects(tmp_path, ["x"])


@pytest.mark.parametrize("content", [b"case,subject\n" + b"9" * 200_000 + b",x\n", b"case,subject\n\xff,x\n"])
def test_a_table_that_no_parser_takes_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "subjects.csv").write_bytes(content)
    with pytest.raises(NnsslError, match=r"subjects\.csv is not a readable CSV file"):
        read_subjects(tmp_path, ["a"])


def test_a_strange_header_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "subjects.csv").write_text(f"case,subject{'9' * 5000},{','.join(f'c{i}' for i in range(3000))}\nx,1\n")
    with pytest.raises(NnsslError, match=r"it has: case, subject9+\.\.\., c0, .*, c17 and 2982 more$") as raised:
        read_subjects(tmp_path, ["x"])
    assert len(str(raised.value)) < 400


def test_an_unrelated_table_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("id,age\nx,50\n")
    assert read_subjects(tmp_path, ["patient001_frame01"]) == {"patient001_frame01": "patient001"}


def test_scans_of_subjects() -> None:
    found = scans_of_subjects(["a", "b", "a", "", "", "a"])
    assert found == {i: [0, 2, 5] for i in (0, 2, 5)}
    assert found[0] is found[5], "one list per subject: 100,000 cases of one subject must not be squared"


def test_scans_of_one_subject_have_one_number() -> None:
    assert groups(["a", "b", "a", "", "", "b"]) == [0, 1, 0, 3, 4, 1]


def make_pool(shapes: list[tuple[int, int, int]], subjects: list[str]) -> Pool:
    cases = [PoolCase(str(i), "x", s, False, subject=who) for i, (s, who) in enumerate(zip(shapes, subjects))]
    return Pool(Path("nowhere"), tuple(cases))


def test_a_partner_is_the_same_place_in_another_scan_of_the_subject() -> None:
    pool = make_pool([(10, 40, 40), (10, 40, 40), (20, 80, 60), (10, 40, 40)], ["a", "b", "a", "a"])
    sampler = CropSampler(pool, (4, 16, 16), 0, TRAINING, 0.0)
    chosen: dict[int, set[int]] = {}
    for n in range(400):
        place = sampler(n)
        partner = sampler.partner(n, place)
        assert partner == sampler.partner(n, place), "a pure function of the crop's number"
        chosen.setdefault(place.case, set()).add(partner.case)
        centres = [
            (np.array(p.lower) + np.array([4, 16, 16]) / 2) / np.array(pool.cases[p.case].shape)
            for p in (place, partner)
        ]
        room = 0.5 * np.array([4, 16, 16]) / np.array(pool.cases[place.case].shape)
        free = (centres[0] > room + 0.05) & (centres[0] < 1 - room - 0.05)
        assert np.abs(centres[0] - centres[1])[free].max(initial=0) < 0.06
        for low, n_voxels, size in zip(partner.lower, pool.cases[partner.case].shape, (4, 16, 16)):
            assert 0 <= low <= n_voxels - size, "inside the image where it fits"
    assert chosen[0] == {2, 3} and chosen[2] == {0, 3} and chosen[3] == {0, 2}
    assert chosen[1] == {1}, "an only scan is its own partner"


def test_a_partner_in_a_smaller_scan_ends_at_its_border() -> None:
    sampler = CropSampler(make_pool([(40, 40, 40), (20, 20, 20)], ["a", "a"]), (16, 16, 16), 0, TRAINING, 0.0)
    for low, expected in ((0, 0), (12, 2), (24, 4)):
        assert sampler.partner(0, CropPlace(0, (low,) * 3)) == CropPlace(1, (expected,) * 3)


def test_partners_do_not_change_the_crops() -> None:
    shapes = [(10, 40, 40)] * 3
    with_subjects, without = (
        CropSampler(make_pool(shapes, who), (4, 16, 16), 0, TRAINING, 0.5) for who in (["a"] * 3, [""] * 3)
    )
    assert [with_subjects(n) for n in range(20)] == [without(n) for n in range(20)]


def test_one_person_under_several_subjects_is_known_by_the_voxels() -> None:
    subjects = ["1", "", "2", "2", "3", "", "1", ""]
    digests = ["a", "b", "c", "b", "d", "", "c", ""]
    assert persons(subjects, digests) == [0, 0, 0, 0, 4, 5, 0, 7]
    assert persons([""] * 3, ["x", "y", "x"]) == [0, 1, 0]
    assert persons([], []) == []
