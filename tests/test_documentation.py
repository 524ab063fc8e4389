"""The documentation's links lead somewhere, and every method and every option of it is on a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnssl.methods import METHODS, get_method
from nnssl.methods.composite import Composite
from nnssl.methods.joint_embedding import JointEmbedding, JointEmbeddingConfig
from tests.conftest import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "documentation").rglob("*.md")])
METHOD_PAGES = REPOSITORY / "documentation" / "methods"


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as code forges make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ +(.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_a_page_with_its_options_and_a_picture(name: str) -> None:
    text = (METHOD_PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert (METHOD_PAGES / "images" / f"{name}.png").is_file()
    assert f"images/{name}.png" in text
    overview = (METHOD_PAGES / "README.md").read_text(encoding="utf-8")
    assert f"({name}.md)" in overview
    cls = get_method(name)
    fields = set(cls.Config.model_fields)
    if issubclass(cls, Composite):
        return
    shared = set(JointEmbeddingConfig.model_fields) if issubclass(cls, JointEmbedding) else set()
    for option in sorted(fields):
        assert f"`{option}`" in text or (option in shared and f"`{option}`" in overview), f"{option} is not on the page"
