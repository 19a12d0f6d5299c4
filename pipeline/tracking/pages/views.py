"""Saved views of an experiment's runs, as MLflow's pages list them under "Views". Does not import MLflow.

MLflow keeps a view in a tag of the experiment: JSON whose `state` is packed JSON of what the page shows. This is no
public format, so views are written only for versions with which the browser test has opened each of them.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.axes import AXES
from pipeline.metrics import CHOOSING, HIGHER_IS_BETTER, RUN_METRICS
from pipeline.runs.records import CURVE
from pipeline.system.files import md5_of
from pipeline.tracking.pages import links
from pipeline.tracking.runs import FINISHED, milliseconds
from pipeline.tracking.store.store import Store

VIEW = "mlflow.sharedViewState."  # prefix of the tags that hold views
WRITTEN = "mlflow.pipeline.view."  # prefix of the tags with the md5 of the views that the pipeline has written
COLUMNS = ("variant", *(axis.name for axis in AXES if axis.default is None))
OTHERS = tuple(axis.name for axis in AXES if axis.default is not None and axis.name != "epochs")
CONVERGED = f"attributes.status = '{FINISHED}'"
SECTION = "pipeline"  # of the page of charts
MORE = "Best 100 runs; Load more, below the list"  # a section's title: longer ones are cut
NAME = "attributes.`Run Name`"
CREATED = "runDateAndNestInfo"
State = dict[str, Any]


@dataclass(frozen=True)
class View:
    """A saved view: its title in MLflow's list, what its page shows, and whether as charts."""

    title: str
    state: Mapping[str, Any]
    mode: str = ""  # CHART opens the charts; MLflow keeps it in links alone, its list of views opens tables

    def packed(self, created: int, updated: int) -> str:
        """Write the view as MLflow's pages do; the times are in milliseconds since 1970."""
        state = base64.b64encode(zlib.compress(json.dumps(self.state).encode())).decode()
        times = {"createdAt": created, "updatedAt": updated}
        return json.dumps({"name": self.title, **times, "state": f"deflate;{state}"})


def leaderboard_key(label: str) -> str:
    """Return the key of the leaderboard of the runs with a data label; links name it."""
    return f"leaderboard-{label.rpartition(' ')[2]}"


def wanted(label: str, metric: str) -> dict[str, View]:
    """Return the views of the runs with a data label, and of all sweeps, by key."""
    runs, code = f"tags.role = 'run' and params.data = '{label}'", label.rpartition(" ")[2]
    return {
        leaderboard_key(label): View(f"Leaderboard: {label}", leaderboard(runs, metric)),
        f"loss-{code}": View(f"Loss curves: {label}", loss_curves(runs), "CHART"),
        f"lr-{code}": View(f"Learning rate and batch size: {label}", lr_and_batch_size(runs, metric), "CHART"),
        "sweeps": View("Sweeps", sweeps(metric)),
        "wrong": View("What went wrong", wrong()),
    }


def link_for(store: Store, label: str) -> str:
    """Link to the leaderboard of a data label; to all runs if it has no view."""
    key = leaderboard_key(label)
    shown = VIEW + key in store.now().tags and store.has_views
    return links.runs_link(store.experiment.experiment_id, key if shown else "")


def update(store: Store, label: str, metric: str, at: float) -> dict[str, str]:
    """Write an experiment's views, except those that a person changed or deleted; return their links, title -> link.

    Args:
        store: holds the experiment.
        label: of the data of a sweep that is evaluated.
        metric: that chose its champion.
        at: in seconds since 1970.
    """
    if not store.has_views:
        return {}
    found, place = {}, store.experiment.experiment_id
    with store.lock:
        tags = store.now().tags
        for key, view in wanted(label, metric).items():
            held = tags.get(VIEW + key)
            if packed := renewed(view, held, tags.get(WRITTEN + key), milliseconds(at)):
                store.tag({WRITTEN + key: md5_of(packed.encode()), VIEW + key: packed})
            if packed or held:
                found[view.title] = links.runs_page(place, key, view.mode)
    return found


def renewed(view: View, held: str | None, written: str | None, at: int) -> str:
    """Return a view as it is to be stored now; empty if it stays: it is the same, or a person changed or deleted it.

    Args:
        view: as it should be.
        held: as it is stored, None if it is not.
        written: the md5 of what the pipeline last stored, None if it never did.
        at: in milliseconds since 1970.
    """
    if held is None:
        return view.packed(at, at) if written is None else ""
    if written != md5_of(held.encode()):
        return ""
    times = json.loads(held)  # our own text
    same = view.packed(times["createdAt"], times["updatedAt"]) == held
    return "" if same else view.packed(times["createdAt"], at)


def leaderboard(runs: str, metric: str) -> State:
    """Rank the runs by the champion's metric; with their configuration and their other metrics."""
    rest = [key for key in CHOOSING if key != metric]
    columns = [*of("metrics", metric), *of("params", *COLUMNS, "data", "epochs"), *of("metrics", *rest)]
    columns += of("params", *OTHERS)
    return table(runs, f"metrics.`{metric}`", metric not in HIGHER_IS_BETTER, columns, {NAME: 190})


def sweeps(metric: str) -> State:
    """List the sweeps, latest first, with the figures of their champions."""
    rest = [f"champion/{key}" for key in CHOOSING if key != metric]
    columns = [*of("tags", "champion"), *of("metrics", f"champion/{metric}", f"champion/{metric} std")]
    columns += [*of("metrics", "sweep/runs", "sweep/diverged", *rest), *of("params", "data")]
    widths = {NAME: 390, "tags.`champion`": 190} | dict.fromkeys((c for c in columns if "champion/" in c), 150)
    return table("tags.role = 'sweep'", "attributes.start_time", False, columns, widths)


def wrong() -> State:
    """List the runs that contradict another, diverged, or were killed."""
    columns = [*of("tags", "went_wrong", "diverged", "error", "contradicts"), *of("params", *COLUMNS, "data")]
    widths = {NAME: 190, "tags.`went_wrong`": 170, "tags.`diverged`": 260, "tags.`error`": 260}
    return table("tags.went_wrong != ''", "tags.`went_wrong`", True, columns, widths)  # by time they would be nested


def loss_curves(runs: str) -> State:
    """Draw the loss against the epoch on logarithmic scales, a line for each batch size and lr."""
    return charts(f"{runs} and {CONVERGED}", CURVE, [line(CURVE)], ["batch_size", "lr"])


def lr_and_batch_size(runs: str, metric: str) -> State:
    """Draw how a metric depends on lr and batch size: a line for each run, and contours where both vary.

    Runs that predict worse than the mean are left out, as their figures leave no room for the others.
    """
    axes = ["rows per minibatch", "log10 of lr"]
    sensible = f"{runs} and {CONVERGED} and metrics.`cv/r2` > 0"
    return charts(sensible, metric, [parallel(axes, [metric]), contour(axes[1], axes[0], metric)], [])


def of(kind: str, *keys: str) -> list[str]:
    """Name columns."""
    return [f"{kind}.`{key}`" for key in keys]


def table(condition: str, order: str, ascending: bool, columns: list[str], widths: Mapping[str, int]) -> State:
    """Return the state of the page that lists runs; `widths` are in pixels."""
    shown = [NAME, *columns, CREATED, "duration"]
    return page(condition, order, ascending) | {
        "selectedColumns": columns,
        "columnOrder": shown,
        "columnWidths": {column: widths.get(column, 100) for column in shown} | {CREATED: 140},
    }


def charts(condition: str, metric: str, cards: list[State], groups: list[str]) -> State:
    """Return the state of the page that draws charts, of the best 100 runs by `metric`; `groups` are params."""
    by = [{"mode": "param", "groupByData": key} for key in groups]
    # MLflow adds a chart for every metric that has none, even a deleted one.
    cards = cards + [card("BAR", key, {"metricKey": key, "deleted": True}) for key in RUN_METRICS]
    section = {"uuid": SECTION, "name": MORE, "display": True, "isReordered": False, "deleted": False}
    return page(condition, f"metrics.`{metric}`", metric not in HIGHER_IS_BETTER) | {
        "compareRunCharts": cards,
        "compareRunSections": [{**section, "isGenerated": False, "columns": 1, "cardHeight": 470}],
        "groupBy": {"aggregateFunction": "average", "groupByKeys": by} if by else None,
        "selectedColumns": of("params", *COLUMNS),
    }


def line(metric: str) -> State:
    """Return a chart of a metric against the epoch."""
    shown = {"metricKey": metric, "selectedMetricKeys": [metric], "scaleType": "log", "xAxisScaleType": "log"}
    own = {"lineSmoothness": 0, "useGlobalLineSmoothing": False}
    return card("LINE", metric, shown | own | {"xAxisKey": "step", "useGlobalXaxisKey": True, "yAxisKey": "metric"})


def parallel(params: list[str], metrics: list[str]) -> State:
    """Return a chart with an axis for each param and metric."""
    return card("PARALLEL", "", {"selectedParams": params, "selectedMetrics": metrics, "showAllRuns": True})


def contour(x: str, y: str, metric: str) -> State:
    """Return a chart of a metric over two params."""
    axes = {"xaxis": x, "yaxis": y}
    shown = {axis: {"key": key, "type": "PARAM"} for axis, key in axes.items()}
    return card("CONTOUR", "", {**shown, "zaxis": {"key": metric, "type": "METRIC"}})


def card(kind: str, name: str, shown: State) -> State:
    """Return a chart."""
    fixed = {"metricSectionId": SECTION, "runsCountToCompare": 100, "deleted": False, "isGenerated": False}
    return {"type": kind, "uuid": f"{kind} {name}", "displayName": name, **fixed, **shown}


def page(condition: str, order: str, ascending: bool) -> State:
    """Return what all pages of runs have in common: no run is hidden, as a second sweep would hide the first."""
    search = {"searchFilter": condition, "orderByKey": order, "orderByAsc": ascending, "startTime": "ALL"}
    filters = {"lifecycleFilter": "Active", "datasetsFilter": [], "modelVersionFilter": "All Runs"}
    hidden = {"runsHiddenMode": "SHOW_ALL", "viewMaximized": False, "runListHidden": False, "hideEmptyCharts": True}
    grouped: State = {
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "isAccordionReordered": False,
    }
    axis = {"globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""}}
    return {**search, **filters, **hidden, **grouped, **axis, "columnOrder": [], "columnWidths": {}}
