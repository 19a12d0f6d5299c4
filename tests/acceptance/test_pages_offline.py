"""A browser without a network draws the report and DVC's plots page; axe finds nothing serious in the report."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import run
from playwright.sync_api import Browser, Page, sync_playwright
from sweeps import params, results, table

from pipeline.evaluation import pictures, report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on PATH; on Debian: apt-get install chromium")
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's chromium, which Playwright drives as it is."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(chromium: Browser, path: Path, width: int = 1100, scheme: str = "light") -> Iterator[Page]:
    """Open a file without a network; fail if a request fails or the page reports an error."""
    context = chromium.new_context(
        offline=True,
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page, wrong = context.new_page(), []
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(path.as_uri(), wait_until="load")
    yield page
    context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a sweep of 1,008 runs, of which some diverged."""
    lrs = [0.001 * 1.2**i for i in range(56)]
    sweep = results(table(), params(sweep_lr=lrs))
    assert len(sweep.evaluated) == 1008
    assert sweep.board["diverged"].sum() > 0
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write(sweep, pictures.draw(sweep), path)
    return path


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe, which finds what keeps people from reading a page."""
    if not shutil.which("npm"):
        pytest.skip("npm is missing, which installs axe; on Debian: apt-get install npm")
    folder = tmp_path_factory.mktemp("axe")
    run("npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(folder), "axe-core@4", cwd=folder)
    return (folder / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


def test_a_report_of_1000_runs_is_small_and_opens_at_once(chromium: Browser, large: Path) -> None:
    assert large.stat().st_size < 3 * 2**20
    begun = time.monotonic()
    with opened(chromium, large) as page:
        page.evaluate(DRAWN)
        assert time.monotonic() - begun < 2
        assert page.locator("svg[role=img]").count() == 6
        for drawing in page.locator("svg[role=img]").all():
            box = drawing.bounding_box()
            assert box is not None
            assert box["width"] > 400
            assert box["height"] > 150


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_the_page_never_scrolls_sideways(chromium: Browser, large: Path, width: int) -> None:
    with opened(chromium, large, width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(chromium: Browser, large: Path, axe: str, scheme: str) -> None:
    with opened(chromium, large, scheme=scheme) as page:
        background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        page.evaluate(axe)
        found = page.evaluate("axe.run()")["violations"]
    serious = [one for one in found if one["impact"] in {"serious", "critical"}]
    assert serious == [], json.dumps(serious)[:2000]


def test_its_print_has_all_pictures_and_no_dark_page(chromium: Browser, large: Path) -> None:
    with opened(chromium, large, scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
        assert len(page.pdf(format="A4")) > 50_000


def test_the_pipeline_s_own_report_is_drawn(chromium: Browser, small: Path) -> None:
    with opened(chromium, small / "report.html") as page:
        assert page.locator("svg[role=img]").count() == 4  # one learning rate: no lr, no heat map
        assert "pipeline reproduce" in page.inner_text("#main")


@pytest.mark.parametrize("command", ["show", "diff"])
def test_dvc_s_plots_page_is_drawn_with_what_setup_installs(chromium: Browser, small: Path, command: str) -> None:
    run("python", "-m", "pipeline.commands.vega", cwd=small)
    run("dvc", "plots", command, *(["other"] if command == "diff" else []), "-o", "dvc_plots", cwd=small)
    with opened(chromium, small / "dvc_plots/index.html") as page:
        page.wait_for_function("document.querySelectorAll('#loss svg, #loss canvas').length > 0")
        page.wait_for_timeout(1000)
        places = page.locator("body > div").filter(has=page.locator("svg, canvas")).all()
        drawn = {place.get_attribute("id") for place in places}
        assert {"loss", "cost", "path", "predicted", "residuals"} <= drawn
        assert "has nothing to draw" in page.inner_text("body") or command == "diff"


def test_without_it_the_page_says_what_to_do(chromium: Browser, small: Path) -> None:
    (small / ".dvc/tmp/vega.js").unlink(missing_ok=True)
    run("dvc", "plots", "show", "-o", "dvc_plots", cwd=small)
    context = chromium.new_context(offline=True)
    page = context.new_page()
    page.goto((small / "dvc_plots/index.html").as_uri(), wait_until="load")
    assert "run make setup in the repository" in page.inner_text("#loss")
    context.close()
