"""The documents: their code is the sources', their output what the commands print, and their languages agree."""

import re
import tomllib
from pathlib import Path

import pytest
import render
from conftest import REPOSITORY, run
from ruamel.yaml import YAML

from pipeline.config import params
from pipeline.system import kernels

PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]
TRANSLATED = [page for page in PAGES if page.with_suffix(".ko.md").exists()]
LISTED = [REPOSITORY / f"docs/{name}.md" for name in ("sweeps", "tables", "models", "records", "machines", "reference")]
GUIDE = (REPOSITORY / "docs/guide.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w])")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def without_blocks(text: str) -> str:
    return FENCE.sub("", text)


def blocks(text: str) -> list[tuple[str, str]]:
    """List a page's blocks, without the comments in a shell's."""
    return [(kind, re.sub(r"\s+# .*", "", body) if kind == "bash" else body) for kind, body in FENCE.findall(text)]


def same(printed: str, shown: str) -> bool:
    """Tell whether a command printed what is shown; within rounding where the bits are not pinned."""
    if (kernels.ARCHITECTURE, kernels.KERNELS) == ("x86_64", "avx2"):
        return printed == shown
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed, shown)]
    words = [NUMBER.sub("", text).split() for text in (printed, shown)]
    return words[0] == words[1] and numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", render.PAGES)
def test_the_guide_s_code_is_the_sources(name: str) -> None:
    page = (REPOSITORY / name).read_text(encoding="utf-8")
    assert page.count("<!-- code: ") >= 7
    assert render.with_code(page) == page, "run: make docs"


def test_each_figure_in_the_guide_s_text_stands_in_an_output_or_a_command() -> None:
    blocks = [float(number) for _, body in FENCE.findall(GUIDE) for number in NUMBER.findall(body)]
    prose = re.sub(r"\]\([^)]*\)|<!--.*?-->", "", without_blocks(GUIDE)).replace("29,661", "29661")
    for number in {one for one in NUMBER.findall(prose) if re.search(r"[.e]|\d{4}", one)}:
        digits = len(number.partition("e")[0].partition(".")[2])
        rounded = {f"{value:.{digits}{'e' if 'e' in number else 'f'}}" for value in blocks}
        assert float(number) in {*blocks, *map(float, rounded), *(float(int(value)) for value in blocks)}, number


@pytest.mark.parametrize("page", TRANSLATED, ids=lambda page: page.name)
def test_the_two_languages_have_the_same_headings_blocks_and_pictures(page: Path) -> None:
    english = page.read_text(encoding="utf-8")
    korean = page.with_suffix(".ko.md").read_text(encoding="utf-8")
    assert [len(level) for level, _ in HEADING.findall(without_blocks(english))] == [
        len(level) for level, _ in HEADING.findall(without_blocks(korean))
    ]
    assert blocks(english) == blocks(korean)
    assert re.findall(r"\]\(\S+\.png\)", english) == re.findall(r"\]\(\S+\.png\)", korean)
    assert re.findall(r"<!--.*?-->", english) == re.findall(r"<!--.*?-->", korean)
    assert len(re.findall(r"[가-힣]", without_blocks(korean))) > len(without_blocks(english)) / 5


@every_page
def test_each_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(without_blocks(page.read_text(encoding="utf-8"))):
        if link.startswith("http"):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        if anchor:
            assert anchor in {anchor_of(heading) for _, heading in headings(file)}, link


def anchor_of(heading: str) -> str:
    """Return the anchor that a code host gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


def headings(page: Path) -> list[tuple[str, str]]:
    """List a page's headings: level and text."""
    found: list[tuple[str, str]] = HEADING.findall(without_blocks(page.read_text(encoding="utf-8")))
    return found


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", LISTED, ids=lambda page: page.name)
def test_a_page_begins_with_its_contents(page: Path) -> None:
    for file in (page, page.with_suffix(".ko.md")):
        if file.exists():
            listed = re.findall(r"^- \[(.*)\]\(#(.*)\)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert listed == [(text, anchor_of(text)) for level, text in headings(file) if level == "##"]


def test_the_index_lists_every_page() -> None:
    linked = LINK.findall((REPOSITORY / "docs/README.md").read_text(encoding="utf-8"))
    pages = {page.name for page in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}
    assert pages - set(linked) == set()


def test_the_settings_that_the_pages_show_are_accepted() -> None:
    shown = [body for page in PAGES for kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind == "yaml"]
    assert shown
    for body in shown:
        values = YAML(typ="safe").load(REPOSITORY / "params.yaml")
        for block, own in YAML(typ="safe").load(body).items():
            values[block] |= own
        params.check(values)


def test_a_package_index_shows_a_text_without_relative_links() -> None:
    # The text becomes the metadata's description as it is (PEP 621); an index has none of the repository's files.
    readme = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["readme"]
    assert readme["content-type"] == "text/markdown"
    assert len(readme["text"]) > 500
    assert [link for link in LINK.findall(readme["text"]) if not link.startswith("https://")] == []


def test_the_pictures_are_small_and_all_shown() -> None:
    pictures = list((REPOSITORY / "docs/images").iterdir())
    assert max(picture.stat().st_size for picture in pictures) < 200_000
    assert sum(picture.stat().st_size for picture in pictures) < 1_500_000
    texts = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [picture.name for picture in pictures if f"images/{picture.name}" not in texts] == []


def test_citation_names_this_version() -> None:
    citation = YAML(typ="safe").load(REPOSITORY / "CITATION.cff")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_repo_review_finds_nothing_that_pyproject_does_not_argue() -> None:
    run("repo-review", ".", cwd=REPOSITORY)
