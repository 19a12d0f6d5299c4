"""The report: one page of HTML that needs nothing else, on what a sweep ran, found, and where it diverged."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.config.axes import AXES, OF_CONFIGURATION
from pipeline.evaluation.choice import best_run, lucky
from pipeline.evaluation.importance import importance
from pipeline.evaluation.plots.drawing import Picture, embedded, number
from pipeline.evaluation.results import Results
from pipeline.metrics import RUN_METRICS, WITH_ERROR
from pipeline.runs import rounding
from pipeline.runs.records import Record
from pipeline.runs.sweep import train_settings
from pipeline.system.tables import measured

OPEN = 50  # rows of a table that are shown at once
ALWAYS = ("epochs", "init")  # axes that are told even where they have their default


def render(results: Results, pictures: Sequence[Picture]) -> str:
    """Return the page; every text of the user's is escaped."""
    loader = PackageLoader("pipeline", "evaluation")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    champion = best_run(results.evaluated, results.board.iloc[0]["configuration"], results.metric)
    return environment.get_template("report.html.jinja").render(
        target=results.target,
        champion=champion,
        metric=results.metric,
        value=number(float(results.board.iloc[0][f"{results.metric} mean"])) if champion else "",
        facts=facts(results),
        costs=results.costs,
        lucky=lucky(len(results.board), results.board.iloc[0].get("tested rows")),
        columns=[results.metric, *(key for key in RUN_METRICS if key != results.metric)],
        board=board(results),
        figures=[replace(one, svg=Markup(embedded(one))) if one.svg else one for one in pictures],  # noqa: S704 - Vega escapes texts
        importance={axis: f"{share:.2f}" for axis, share in importance(results.evaluated, results.metric).items()},
        diverged=diverged(results),
        rule=results.params.evaluate.choose,
        open=OPEN,
    )


def facts(results: Results) -> dict[str, str]:
    """Say what was run on which data."""
    data, (rows, k) = results.params.data, results.prepared.X.shape
    names = ", ".join(data.features[:20]) + (f" and {k - 20} more" if k > 20 else "")
    left = sum(bool(record.left) for record in results.evaluated)
    early = f", {left:,} with fits that left early" if left else ""
    own = [vars(record.run) for record in results.evaluated]
    settings = train_settings(results.params.train).items()
    used = [f"{name} {value:g}" for name, value in settings if any(run[name] is not None for run in own)]
    return {
        "table": data.source,
        "rows": f"{rows:,}, of which {results.prepared.train_rows[0]:,} are trained on",
        "target": data.target,
        "features": f"{k:,}: {names}",
        "held out for testing": f"{held_out(results)}, drawn with seed {data.split.seed}",
        "features standardized": "yes, by the training rows" if data.standardize else "no",
        "variants": ", ".join(results.params.variants),
        **axes(results),
        **({"settings": ", ".join(used)} if used else {}),
        "runs": f"{len(results.evaluated):,} ({int(results.board['diverged'].sum()):,} diverged{early})",
        "champion chosen by": chosen(results),
        **final(results),
    }


def held_out(results: Results) -> str:
    """Say which rows the splits test."""
    split = results.params.data.split
    if split.method != "kfold":
        return f"{split.test_fraction:g} of the rows"
    each = split.folds == len(results.prepared.X) - results.final_rows
    return "each row by itself (leave-one-out)" if each else f"{split.folds} folds"


def axes(results: Results) -> dict[str, str]:
    """List the values of each axis that matters: of some always, of the others if one is not the default."""
    words = {axis.name: axis.words[1] for axis in AXES} | {"lr": "learning rates", "epochs": "epochs"}
    values = {axis: results.values(axis.name) for axis in AXES}
    return {
        words[axis.name]: ", ".join(map(str, own[:30])) + (", …" if len(own) > 30 else "")
        for axis, own in values.items()
        if own != [axis.default] or axis.name in ALWAYS
    }


def chosen(results: Results) -> str:
    """Say how the champion was chosen, and what its figure rests on."""
    champion, metric = results.board.iloc[0], results.metric
    said = f"{metric}, mean over the seeds"
    if results.params.evaluate.choose == "one_se":
        said += "; of those within one standard error of the best, the plainest: the least trained"
    if metric in WITH_ERROR and "tested rows" in champion:
        error, rows, folds = float(champion[f"{metric} se"]), int(champion["tested rows"]), int(champion["folds"])
        over = f"in {folds:,} folds" if folds > 1 else "held out"
        said += f"; it rests on {rows:,} tested row{'s' * (rows > 1)} {over}, and its standard error is "
        said += number(error) if math.isfinite(error) else "unknown"
    return said


def final(results: Results) -> dict[str, str]:
    """Say what the champion reaches on the final rows.

    How many champions were measured on them is history, which no out may depend on: MLflow and evaluate's end tell it.
    """
    if not (rows := results.final_rows):
        return {}
    figures = ", ".join(f"{key} {number(value)}" for key, value in results.final.items()) or "no champion to measure"
    on = f"{rows:,} final row{'s' * (rows > 1)}, which nothing else saw"
    return {f"on {on}": f"{figures}; how many champions were measured on them so far stands with the sweep in MLflow"}


def board(results: Results) -> list[dict[str, object]]:
    """Return the leaderboard's rows as texts."""
    rows = []
    for place, row in enumerate(results.board.to_dict("records"), start=1):
        own: dict[str, object] = {
            "place": place,
            "variant": " ".join([str(row["variant"]), *others(row)]),
            **{key: row[key] for key in ("batch_size", "lr", "runs", "diverged")},
        }
        for key in RUN_METRICS:
            mean, std, error = (row.get(f"{key} {kind}") for kind in ("mean", "std", "se"))
            own[key] = measured(mean, std, error, digits=3) or "—"
        rows.append(own)
    return rows


def others(row: Mapping[Any, object]) -> list[str]:
    """Say where a configuration has not the default of an axis; `row` is one of the leaderboard's."""
    axes = [axis for axis in OF_CONFIGURATION if axis.default is not None and axis.name in row]
    return [f"{axis.label}={row[axis.name]}" for axis in axes if row[axis.name] != axis.default]


def diverged(results: Results) -> list[dict[str, object]]:
    """List the configurations that diverged, of the variants that are shown: where first, and why."""
    rows = []
    for row in results.shown[results.shown["diverged"] > 0].to_dict("records"):
        own = [one for one in results.runs_of[row["configuration"]] if one.diverged]
        rows.append(
            {
                **{key: row[key] for key in ("batch_size", "lr", "diverged")},
                "variant": " ".join([results.group(str(row["variant"])).label, *others(row)]),
                "runs": int(row["runs"]) + int(row["diverged"]),
                "where": f"seed {own[0].run.seed}: {own[0].diverged.split(';')[0]}",
                "why": why(results, own[0]),
            }
        )
    return sorted(rows, key=lambda row: float(str(row["lr"])))


def why(results: Results, record: Record) -> str:
    """Say why a run diverged, as far as the curvature of the loss tells."""
    run = record.run
    if unlike := rounding.unlike_plain(run):
        return f"which lr is stable with {unlike} is not known"
    if not results.group(run.variant).linear:
        return "not linear: its curvature changes on the way"
    stable, limit = results.largest_stable_lr, results.stable[run.batch_size]
    if run.lr >= stable:
        return f"its lr is {number(run.lr / stable)} × the largest stable one, 2/λ = {number(stable)}"
    if run.lr >= limit:
        return f"below 2/λ = {number(stable)}, but minibatches of {run.batch_size} curve more: {number(limit)} is safe"
    return "its lr is stable on all training rows; the weights, or a fold's rows, are too large for float32"
