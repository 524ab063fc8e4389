"""The page: complete, escaped, without network or scripts; figures show the numbers they are given."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nnssl.inspect import figures
from nnssl.inspect.facts import Facts, collect
from nnssl.inspect.page import Views, default_configuration, draw_cards, render, write_page
from nnssl.inspect.patch_drawing import draw_patch
from tests.inspect.conftest import EVIL, NAME, intensity, write_raw

Make = Callable[..., Path]


class Tags(HTMLParser):
    """Tags that are opened and closed, and every address."""

    void = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in self.void:
            self.open.append(tag)
        self.addresses += [v or "" for k, v in attributes if k in ("src", "href", "xlink:href")]
        self.ids += [v or "" for k, v in attributes if k == "id"]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def parse(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    return tags


def page(facts: Facts, views: Views | None = None) -> str:
    return render(facts, draw_cards(facts, 60, 1), views or Views(reason="not preprocessed"))


def test_everything_is_on_the_page_and_nothing_is_loaded(hand_made: Make) -> None:
    hand_made(4)
    html = page(collect("711"), Views("3d_fullres", "masked_region", b"png"))
    tags = parse(html)
    assert "script" not in tags.seen
    assert all(a.startswith(("data:image/", "#")) for a in tags.addresses)
    assert not re.search(r"https?://(?!www\.w3\.org)", html)  # but SVG's name spaces
    assert len(tags.ids) == len(set(tags.ids))
    for words in (
        NAME, "nnsslPlannerCT", "Dataset027_ACDC", "case_003", "usual is 1 mm", "clipped at -100 and 100 HU", "int16",
        "spacing along Z", "voxels in the body", "planned for 3d_fullres", "8 × 16 × 16 voxels", "32 × 24 × 16 mm",
        "typical", "data:image/png;base64,cG5n", "inside the body",
    ):  # fmt: skip
        assert words in html, words
    assert html.count("data:image/jpeg") == 4 * 3  # few cases: all with three planes


def test_names_are_escaped(hand_made: Make, nnunet_folders: Path) -> None:
    hand_made()
    images = nnunet_folders / "raw" / NAME / "imagesTr"
    (images / "case_000_0000.nii.gz").rename(images / "<b onclick=x>&_0000.nii.gz")
    html = page(collect("711"))
    parse(html)
    assert EVIL not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "<b onclick" not in html


def test_raw_only(nnunet_folders: Path) -> None:
    write_raw(nnunet_folders / "raw", 2, channels=2)
    html = page(collect("711"))
    parse(html)
    assert "axial" in html
    assert "No plans to show" in html
    assert "file headers" in html
    assert html.count("CT, axial</div>") == 4  # of both channels


def test_unreadable_cases_are_said_on_their_cards(nnunet_folders: Path) -> None:
    folder = write_raw(nnunet_folders / "raw", 1)
    path = folder / "imagesTr" / "case_000_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])  # the header is whole, the voxels are not
    facts = collect("711")
    assert len(facts.cases) == 1
    html = page(facts)
    parse(html)
    assert "no picture" in html
    assert "none of the 1 case(s) could be read" in html


def test_page_without_cards_and_plans(hand_made: Make) -> None:
    hand_made(with_plans=False)
    facts = collect("711")
    html = render(facts, [], Views(reason="nothing yet"))
    parse(html)
    assert "No pictures of cases" in html
    assert "nothing yet" in html


def test_written_whole(hand_made: Make, tmp_path: Path) -> None:
    hand_made()
    target = tmp_path / "new folder" / "page.html"
    write_page(target, collect("711"), [], Views(reason="-"))
    assert target.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in target.parent.iterdir()] == ["page.html"]


def test_default_configuration(hand_made: Make) -> None:
    hand_made()
    plan = collect("711").plan
    assert plan is not None
    (only,) = plan.configurations
    ready = type(only)(**{**vars(only), "name": "2d", "cases": 3, "problem": ""})
    stale = type(only)(**{**vars(only), "name": "3d_lowres", "cases": 3})
    assert default_configuration([only, stale, ready]) is ready
    assert default_configuration([]) is None


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [0.0, 0.0], [1, 2, 3, 500], [0.5, 0.7, 9.0], [-1.0, 4.0]])
def test_histograms_of_any_values(values: list[float]) -> None:
    for logarithmic in (False, True):
        svg = figures.distribution(values, "spacing (mm)", {"planned": 2.0}, logarithmic)
        root = ElementTree.fromstring(svg)
        texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"spacing (mm)", "planned", "cases"} <= set(texts)
    assert figures.INK not in svg
    assert "currentColor" in svg


def test_wildly_mixed_intensities_are_drawn_on_a_logarithmic_axis() -> None:
    assert figures.mixed_scales([4.0, 1.7e6])
    assert not figures.mixed_scales([200.0, 900.0, 0.0, -50.0])
    assert not figures.mixed_scales([0.0])
    mixed = [{k: v * scale for k, v in intensity(10)[0].items()} for scale in (1, 10_000)]
    for cases in (mixed, intensity(0)):
        root = ElementTree.fromstring(figures.intensity_fan(cases, "MRI", "stored values"))
        texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"MRI inside the body", "intensity (stored values)", "median"} <= set(texts)


def test_ct_histogram_without_counts_or_plans() -> None:
    ElementTree.fromstring(figures.ct_histogram({"low": -1100, "step": 10, "counts": [0] * 40}, None))


def test_patch_drawing_is_to_scale(hand_made: Make) -> None:
    hand_made()
    plan = collect("711").plan
    assert plan is not None
    root = ElementTree.fromstring(draw_patch(plan.configurations[0]))
    boxes = [(r.get("class"), float(r.get("width", 0)), float(r.get("height", 0))) for r in root.iter("rect")]
    image, patch = boxes[0], boxes[1]  # rows x columns: median 24 x 20 mm, patch 24 x 16 mm
    assert (image[0], patch[0]) == ("image", "patch")
    assert patch[1] / image[1] == pytest.approx(16 / 20, abs=0.01)
    assert patch[2] / image[2] == pytest.approx(1, abs=0.01)
    slices = boxes[2:4]  # slices x columns: 64 x 20 mm and 32 x 16 mm
    assert slices[1][2] / slices[0][2] == pytest.approx(0.5, abs=0.01)
