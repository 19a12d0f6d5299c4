"""What a person sees on MLflow's pages, in a real browser over a real store."""

import re
from typing import TYPE_CHECKING

import mlflow
import pytest
from conftest import default_store, search

from acceptance.conftest import Served, Watched
from pipeline.tracking.pages import links, views

if TYPE_CHECKING:
    from playwright.sync_api import Page


def cells(page: "Page", column: str) -> list[str]:
    """Read a column of the table of runs, from top to bottom."""
    containers = (".ag-center-cols-container", ".ag-pinned-left-cols-container")
    found = page.locator(", ".join(f'{container} [col-id="{column}"]' for container in containers))
    found.first.wait_for()
    return [text.strip().split("\n")[-1] for text in found.all_inner_texts()]  # a name follows its run's colour


def label(served: Served) -> str:
    return str(search(default_store(served.repository), "tags.role = 'sweep'")[0].data.params["data"])


def test_views_are_written_for_exactly_the_version_that_is_tested_here() -> None:
    assert {mlflow.__version__} == views.VERSIONS


def test_the_first_link_lands_on_a_leaderboard_with_its_columns_filled(served: Served, watched: Watched) -> None:
    page = watched.page
    page.goto(served.link)
    figures = [float(text) for text in cells(page, "metrics.`cv/mse`") if text != "-"]
    stored = search(default_store(served.repository))
    assert figures == sorted(one.data.metrics["cv/mse"] for one in stored if one.info.status == "FINISHED")
    shown = {key: cells(page, f"params.`{key}`") for key in ("variant", "batch_size", "lr", "seed")}
    assert {key: sorted(texts) for key, texts in shown.items()} == {
        key: sorted(one.data.params[key] for one in stored) for key in shown
    }
    assert page.get_by_text(f"Leaderboard: {label(served)}").first.is_visible()
    assert "workflowType=machine_learning" in page.url
    assert watched.faults == []


def test_a_second_sweep_leaves_the_first_visible(served: Served, watched: Watched) -> None:
    page = watched.page
    page.goto(served.link)
    names = cells(page, views.NAME)
    runs = search(default_store(served.repository))
    assert len({one.data.tags["sweep"] for one in runs}) == 2
    assert sorted(names) == sorted(one.info.run_name for one in runs)
    page.goto(f"{served.address}/{links.runs_page('1', 'sweeps')}")
    page.reload()
    parents = search(default_store(served.repository), "tags.role = 'sweep'")
    assert sorted(cells(page, "tags.`champion`")) == sorted(one.data.tags["champion"] for one in parents)
    assert "-" not in cells(page, "metrics.`champion/cv/mse`")


@pytest.mark.parametrize("kind", ["leaderboard", "loss", "lr", "sweeps", "wrong"])
def test_each_view_opens_without_an_error_and_shows_rows_or_charts(served: Served, watched: Watched, kind: str) -> None:
    [(key, view)] = [(key, view) for key, view in views.wanted(label(served), "cv/mse").items() if key.startswith(kind)]
    page = watched.page
    page.goto(f"{served.address}/{links.runs_page('1', key, view.mode)}")
    page.locator("[role=row] a[href*='/runs/']").first.wait_for()
    assert page.get_by_text(view.title).first.is_visible()
    if view.mode == "CHART":
        page.locator(".js-plotly-plot, canvas").first.wait_for()
        shown = [card for card in view.state["compareRunCharts"] if not card["deleted"]]
        assert page.get_by_test_id("experiment-view-compare-runs-card").count() == len(shown)
    if kind == "wrong":
        assert cells(page, "tags.`went_wrong`") == ["diverged"]
    assert watched.faults == []


def test_a_sweeps_page_shows_its_description_figures_and_images(served: Served, watched: Watched) -> None:
    parents = search(default_store(served.repository), "tags.role = 'sweep'")
    [parent] = [one for one in parents if one.info.run_name.startswith("later: ")]
    page = watched.page
    page.goto(f"{served.address}/{links.run_page('1', parent.info.run_id)}")
    page.get_by_text("Show more").first.click()
    assert page.get_by_text(re.compile(f"Champion: {re.escape(parent.data.tags['champion'])}, cv/mse")).is_visible()
    assert page.get_by_text("2 runs; 1 diverged:").is_visible()
    page.get_by_text("champion/cv/mse", exact=True).first.wait_for()
    page.wait_for_function("[...document.images].every(image => image.complete)")
    widths = page.locator("img[src*=get-artifact]").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(widths) >= 2
    assert min(widths) > 100
    assert not page.get_by_text("mlflow.pipeline.").count()
    assert watched.faults == []
