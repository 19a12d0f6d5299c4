"""A browser without a network draws the report and DVC's plots page; axe finds nothing serious in the report."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from conftest import run
from sweeps import params, results, table
from test_lift import Perceptron

from acceptance.conftest import opened
from pipeline.evaluation import pictures, report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AXE = "axe-core@4.14.1"
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@contextmanager
def shown(browser: "Browser", path: Path, width: int = 1100, dark: bool = False) -> "Iterator[Page]":
    """Open a file without a network; fail if a request fails or the page reports an error."""
    with opened(browser, width, dark=dark, offline=True) as watched:
        watched.page.goto(path.as_uri(), wait_until="load")
        yield watched.page


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a sweep of 1,008 runs, of which some diverged."""
    lrs = [0.001 * 1.2**i for i in range(56)]
    sweep = results(table(), params(sweep_lr=lrs))
    assert len(sweep.evaluated) == 1008
    assert sweep.board["diverged"].sum() > 0
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report.render(sweep, pictures.draw(sweep)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def nonlinear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a sweep whose second variant is not linear; some of its runs diverged."""
    settings = params(variants=["matrix"], train_init="default")
    settings = settings.model_copy(update={"variants": ["matrix", "perceptron"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pipeline.variants.perceptron", SimpleNamespace(Model=Perceptron))
        sweep = results(table(), settings)
        path = tmp_path_factory.mktemp("report") / "report.html"
        path.write_text(report.render(sweep, pictures.draw(sweep)), encoding="utf-8")
    assert sweep.board["diverged"].sum() > 0
    return path


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe, which finds what keeps people from reading a page."""
    if not shutil.which("npm"):
        pytest.skip("npm is missing, which installs axe; on Debian: apt-get install npm")
    folder = tmp_path_factory.mktemp("axe")
    run("npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(folder), AXE, cwd=folder)
    return (folder / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


def test_a_report_of_1000_runs_is_small_and_has_few_elements(browser: "Browser", large: Path) -> None:
    assert large.stat().st_size < 3 * 2**20
    with shown(browser, large) as page:
        page.evaluate(DRAWN)
        assert page.evaluate("document.querySelectorAll('*').length") < 20_000  # today: 6,547
        assert page.locator("svg[role=img]").count() == 6
        for drawing in page.locator("svg[role=img]").all():
            box = drawing.bounding_box()
            assert box is not None
            assert box["width"] > 400
            assert box["height"] > 150


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_the_page_never_scrolls_sideways(browser: "Browser", large: Path, width: int) -> None:
    with shown(browser, large, width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("which", ["large", "nonlinear"])
def test_axe_finds_nothing_serious(
    browser: "Browser", request: pytest.FixtureRequest, axe: str, which: str, dark: bool
) -> None:
    with shown(browser, request.getfixturevalue(which), dark=dark) as page:
        background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert background == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
        assert page.locator("svg[role=img]").count() == 6
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        page.evaluate(axe)
        found = page.evaluate("axe.run()")["violations"]
    serious = [one for one in found if one["impact"] in {"serious", "critical"}]
    assert serious == [], json.dumps(serious)[:2000]


def test_its_print_has_all_pictures_and_no_dark_page(browser: "Browser", large: Path) -> None:
    with shown(browser, large, dark=True) as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
        assert len(page.pdf(format="A4")) > 50_000


def test_the_pipeline_s_own_report_is_drawn(browser: "Browser", small: Path) -> None:
    with shown(browser, small / "report.html") as page:
        assert page.locator("svg[role=img]").count() == 4  # one learning rate: no lr, no heat map
        assert "pipeline reproduce" in page.inner_text("#main")


@pytest.mark.parametrize("command", ["show", "diff"])
def test_dvc_s_plots_page_is_drawn_with_what_setup_installs(browser: "Browser", small: Path, command: str) -> None:
    run("python", "tools/vega.py", cwd=small)
    run("dvc", "plots", command, *(["other"] if command == "diff" else []), "-o", "dvc_plots", cwd=small)
    with shown(browser, small / "dvc_plots/index.html") as page:
        page.wait_for_function("document.querySelectorAll('#loss svg, #loss canvas').length > 0")
        page.wait_for_timeout(1000)
        places = page.locator("body > div").filter(has=page.locator("svg, canvas")).all()
        drawn = {place.get_attribute("id") for place in places}
        assert {"loss", "cost", "path", "predicted"} <= drawn
        assert "undefined" not in page.inner_text("body")
        assert "has nothing to draw" in page.inner_text("body") or command == "diff"


def test_without_it_the_page_says_what_to_do(browser: "Browser", small: Path) -> None:
    (small / ".dvc/tmp/vega.js").unlink(missing_ok=True)
    run("dvc", "plots", "show", "-o", "dvc_plots", cwd=small)
    with opened(browser, offline=True) as watched:
        watched.page.goto((small / "dvc_plots/index.html").as_uri(), wait_until="load")
        assert "run make setup in the repository" in watched.page.inner_text("#loss")
        assert watched.faults
        watched.faults.clear()  # of what is missing
