"""What a person sees on MLflow's pages, in a real browser over a real store."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlflow
import pytest
from conftest import default_store, run, search
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun

from acceptance.conftest import Served
from pipeline.tracking.pages import links, views
from pipeline.tracking.store import releases

if TYPE_CHECKING:
    from playwright.sync_api import Page

MODEL = "regression-scores"
VISIBLE = ("metrics.`cv/mse`", *(f"params.`{key}`" for key in ("variant", "batch_size", "lr", "seed", "data")))


def cells(page: "Page", column: str) -> list[str]:
    """Read a column of the table of runs, from top to bottom, as far as the window shows it."""
    containers = (".ag-center-cols-container", ".ag-pinned-left-cols-container")
    found = page.locator(", ".join(f'{container} [col-id="{column}"]' for container in containers))
    found.first.wait_for()
    return [text.strip().split("\n")[-1] for text in found.all_inner_texts()]  # a name follows its run's colour


def stored(served: Served, role: str = "run") -> Sequence[StoredRun]:
    return search(default_store(served.repository), f"tags.role = '{role}'")


def ranked(served: Served) -> list[StoredRun]:
    """List the runs that did not diverge, best first."""
    finished = [one for one in stored(served) if one.info.status == "FINISHED"]
    return sorted(finished, key=lambda one: one.data.metrics["cv/mse"])


def sweep_of(served: Served, name: str) -> StoredRun:
    [parent] = [one for one in stored(served, "sweep") if one.info.run_name.startswith(name)]
    return parent


def champion(served: Served) -> StoredRun:
    """Find the run that the champion's model was made of."""
    client = MlflowClient(default_store(served.repository))
    return client.get_run(str(client.get_model_version_by_alias(MODEL, "champion").run_id))


def printed(served: Served, *command: str) -> list[str]:
    """Run a command; return the links that it ends with."""
    ended = run(*command, cwd=served.repository, extra={"PIPELINE_UI": served.address})
    return re.findall(r"http\S+", ended.stdout + ended.stderr)


def test_views_are_written_for_exactly_the_version_that_is_tested_here() -> None:
    assert {version for version in releases.RELEASES if releases.has_views(version)} == {mlflow.__version__}


def test_the_first_link_lands_on_a_leaderboard_with_its_columns_filled(served: Served, page: "Page") -> None:
    page.goto(served.link)
    figures = [float(text) for text in cells(page, "metrics.`cv/mse`")]
    best = ranked(served)[: len(figures)]
    assert len(figures) > 30
    assert figures == [one.data.metrics["cv/mse"] for one in best]
    for column in VISIBLE[1:]:
        shown, key = cells(page, column), column.split("`")[1]
        assert sorted(shown) == sorted(one.data.params[key] for one in best)
    for column in VISIBLE:
        box = page.locator(f'[role=columnheader][col-id="{column}"]').bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 1440, f"{column} is out of sight"
    assert page.get_by_text(f"Leaderboard: {best[0].data.params['data']}").first.is_visible()
    assert "workflowType=machine_learning" in page.url


def test_a_second_sweep_of_more_runs_than_a_page_loads_does_not_hide_the_first(served: Served, page: "Page") -> None:
    first, later = sweep_of(served, "scores"), sweep_of(served, "later")
    of_first = [one for one in ranked(served) if one.data.tags["sweep"] == first.data.tags["sweep"]]
    assert len([one for one in ranked(served) if one.data.tags["sweep"] == later.data.tags["sweep"]]) > 100
    page.goto(served.link)
    page.get_by_text("100 matching runs").wait_for()
    names = cells(page, views.NAME)
    for one in of_first:
        better = [other for other in ranked(served) if other.data.metrics["cv/mse"] <= one.data.metrics["cv/mse"]]
        assert one.info.run_name in names[: len(better)]
    page.get_by_role("button").filter(has_text="Leaderboard: ").click()  # the list of views
    page.get_by_text("Sweeps", exact=True).click()
    page.get_by_text("2 matching runs").wait_for()
    assert cells(page, views.NAME) == [later.info.run_name, first.info.run_name]
    assert cells(page, "tags.`champion`") == [one.data.tags["champion"] for one in (later, first)]
    figures = [float(text) for text in cells(page, "metrics.`champion/cv/mse`")]
    assert figures == [one.data.metrics["champion/cv/mse"] for one in (later, first)]


def test_the_loss_curves_draw_both_sweeps_and_say_how_to_see_more(served: Served, page: "Page") -> None:
    [(key, view)] = [(key, view) for key, view in views.wanted(label(served), "cv/mse").items() if key[:4] == "loss"]
    page.goto(f"{served.address}/{links.runs_page('1', key, view.mode)}")
    page.get_by_text(views.MORE).first.wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    page.get_by_text("batch_size: 2, lr: 1e-05 (").wait_for()
    names = page.locator("[role=row] a[href*='/runs/']").all_inner_texts()
    of_first = [
        one for one in stored(served) if one.data.tags["sweep"] == sweep_of(served, "scores").data.tags["sweep"]
    ]
    assert {one.info.run_name for one in of_first} <= set(names)
    assert len(set(names)) > 20
    page.mouse.move(400, 900)
    page.mouse.wheel(0, 50_000)
    page.get_by_role("button", name="Load more").wait_for()


def label(served: Served) -> str:
    return str(sweep_of(served, "scores").data.params["data"])


@pytest.mark.parametrize("kind", ["leaderboard", "loss", "lr", "sweeps", "wrong"])
def test_each_view_opens_without_an_error_and_shows_rows_or_charts(served: Served, page: "Page", kind: str) -> None:
    [(key, view)] = [(key, view) for key, view in views.wanted(label(served), "cv/mse").items() if key.startswith(kind)]
    page.goto(f"{served.address}/{links.runs_page('1', key, view.mode)}")
    page.locator("[role=row] a[href*='/runs/']").first.wait_for()
    assert page.get_by_text(view.title).first.is_visible()
    if view.mode == "CHART":
        shown = [card for card in view.state["compareRunCharts"] if not card["deleted"]]
        page.locator(".js-plotly-plot, canvas").nth(len(shown) - 1).wait_for()
        assert page.get_by_test_id("experiment-view-compare-runs-card").count() == len(shown)
    if kind == "wrong":
        assert cells(page, "tags.`went_wrong`") == ["diverged"]


def test_a_sweeps_page_shows_its_description_figures_and_images(served: Served, page: "Page") -> None:
    parent = sweep_of(served, "later")
    page.goto(f"{served.address}/{links.run_page('1', parent.info.run_id)}")
    about = page.get_by_text("About this run").bounding_box()
    assert about is not None
    page.get_by_text("Show more").first.click()
    assert page.get_by_text(re.compile(f"Champion: {re.escape(parent.data.tags['champion'])}, cv/mse")).is_visible()
    assert page.get_by_text("110 runs; 1 diverged:").is_visible()
    page.get_by_text("champion/cv/mse", exact=True).first.wait_for()
    page.wait_for_function("[...document.images].every(image => image.complete)")
    drawn = page.locator("img[src*=get-artifact]").all()
    assert len(drawn) >= 3
    for image in drawn:
        box = image.bounding_box()
        assert box is not None
        assert box["width"] > 400
        assert box["x"] + box["width"] < about["x"] < 1440  # a wide image would push the other column out of sight
    assert not page.get_by_text("mlflow.pipeline.").count()


def test_the_champion_stands_on_the_models_page_and_on_its_run(served: Served, page: "Page") -> None:
    best = champion(served)
    page.goto(f"{served.address}/#/experiments/1/models?workflowType=machine_learning")
    page.get_by_role("link", name=MODEL).first.wait_for()
    page.get_by_role("link", name=best.info.run_name).wait_for()
    page.goto(f"{served.address}/{links.run_page('1', best.info.run_id)}")
    page.locator(f"a[href*='/models/{MODEL}']").first.click()
    page.get_by_text("Version 1").first.wait_for()
    assert f"/models/{MODEL}" in page.url


def test_the_registry_lists_the_champion_whose_page_shows_version_alias_and_run(served: Served, page: "Page") -> None:
    page.goto(f"{served.address}/#/models?workflowType=machine_learning")
    page.get_by_role("dialog").get_by_role("button", name="Try it now").click()  # MLflow shows it once, to everybody
    page.get_by_role("link", name=MODEL).click()
    page.get_by_text("champion").first.wait_for()
    page.get_by_role("link", name="Version 1").click()
    page.get_by_role("link", name=champion(served).info.run_name).wait_for()
    assert page.get_by_text("champion").first.is_visible()


def test_links_that_commands_end_with_land_where_they_say(served: Served, page: "Page") -> None:
    sweep, board = printed(served, "pipeline", "sync")  # `make repro` ends with it
    page.goto(sweep)
    page.get_by_role("heading", name=sweep_of(served, "scores").info.run_name).wait_for()
    page.goto(board)
    least = ranked(served)[0].data.metrics["cv/mse"]
    assert float(cells(page, "metrics.`cv/mse`")[0]) == least
    [best] = printed(served, "pipeline", "top", "-n", "1")
    [top] = [one for one in ranked(served) if f"/runs/{one.info.run_id}?" in best]
    assert top.data.metrics["cv/mse"] == least
    page.goto(best)
    page.get_by_role("heading", name=top.info.run_name, exact=True).wait_for()
    [model] = printed(served, "pipeline", "promote", champion(served).info.run_id)
    page.goto(model)
    page.get_by_text("@ champion").wait_for()
