"""Runs in groups: those with the same values of some keys together, best first."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.config.axes import AXES
from pipeline.config.where import number
from pipeline.errors import InputError
from pipeline.evaluation.choice import place
from pipeline.metrics import as_loss, summarized
from pipeline.runs.records import BEHIND
from pipeline.system.tables import Row, measured

NAMES = frozenset(axis.name for axis in AXES)


def rank(runs: Sequence[Row], keys: Sequence[str], metric: str) -> list[Row]:
    """Group runs by `keys`; rank the groups by the mean of a metric over runs that neither diverged nor fell behind.

    Args:
        runs: sound ones, latest first, each with all that is known of it: axes, metrics, params, tags. One without a
            key belongs to the group in which that is empty.
        keys: what the runs of a group share.
        metric: of which each group gets the mean, the standard deviation and the best, with that run's name and id.

    Raises:
        InputError: no run has one of the keys.
    """
    names = {name for run in runs for name in run}
    for key in keys:
        if runs and key not in names:
            own = ", ".join(sorted(name for name in names if not name.startswith("mlflow.")))
            raise InputError(f"--group {key}: no run has {key!r}; they have: {own}")
    groups: dict[tuple[str, ...], list[Row]] = {}
    for run in runs:
        groups.setdefault(tuple(str(run.get(key, "")) for key in keys), []).append(run)
    ends = ("diverged", BEHIND) if any(_end(run) == BEHIND for run in runs) else ("diverged",)
    rows = [_group({key: _read(own[0], key) for key in keys}, own, metric, ends) for own in groups.values()]
    return sorted(rows, key=lambda row: as_loss(metric, row[f"{metric} mean"]))


def rows_to_show(rows: Sequence[Row], metric: str) -> list[Row]:
    """Return what people see of groups: the metric as its mean ± standard deviation."""
    shown: list[Row] = []
    for row in rows:
        mean, deviation = f"{metric} mean", f"{metric} std"
        cells = {metric if key == mean else key: value for key, value in row.items() if key != deviation}
        shown.append(cells | {metric: measured(row[mean], row[deviation])})
    return shown


def _group(of: Mapping[str, object], runs: Sequence[Row], metric: str, ends: Sequence[str]) -> Row:
    scored = [run for run in runs if not _end(run) and math.isfinite(_value(run, metric))]
    counts = Counter(map(_end, runs))
    values = [_value(run, metric) for run in scored]
    mean, deviation = summarized(values)
    row: dict[str, object] = {**of, "runs": len(values), **{end: counts[end] for end in ends}}
    row[f"{metric} mean"] = mean if values else None
    row[f"{metric} std"] = deviation if len(values) > 1 else None
    if values:
        best = min(reversed(scored), key=lambda run: place(metric, run))  # of equals, the earliest
        row |= {f"{metric} best": best[metric], "best run": best["run"], "run_id": best["run_id"]}
    return row


def _read(run: Row, key: str) -> object:
    # Only an axis has numbers: the id of a sweep stays text, even if it reads as a number, such as 1234567e8901.
    value = run.get(key, "")
    return number(value) if key in NAMES else value


def _end(run: Row) -> str:
    """Say how a run ended that may not be compared with others; empty for one that may."""
    behind = str(run.get("left", "")).startswith(BEHIND)
    return "diverged" if "diverged" in run else BEHIND if behind else ""


def _value(run: Row, metric: str) -> float:
    return float(value) if isinstance(value := run.get(metric), float | int) else math.nan
