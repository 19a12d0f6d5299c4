"""Runs in groups: those with the same values of some keys together, best first."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.config.params import HIGHER_IS_BETTER
from pipeline.config.where import number
from pipeline.errors import InputError
from pipeline.runs.records import BEHIND, CURVE
from pipeline.system.tables import Row, spread


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
    worse = -1 if metric in HIGHER_IS_BETTER else 1
    ends = ("diverged", BEHIND) if any(_end(run) == BEHIND for run in runs) else ("diverged",)
    rows = [
        _group(dict(zip(keys, map(number, values), strict=True)), own, metric, ends) for values, own in groups.items()
    ]
    return sorted(rows, key=lambda row: worse * mean if isinstance(mean := row[f"{metric} mean"], float) else math.inf)


def rows_to_show(rows: Sequence[Row], metric: str) -> list[Row]:
    """Return what people see of groups: the metric as its mean ± standard deviation."""
    return [_shown(row, metric) for row in rows]


def _group(of: Mapping[str, object], runs: Sequence[Row], metric: str, ends: Sequence[str]) -> Row:
    scored = [run for run in runs if not _end(run) and math.isfinite(_value(run, metric))]
    counts = Counter(map(_end, runs))
    values = [_value(run, metric) for run in scored]
    row: dict[str, object] = {**of, "runs": len(values), **{end: counts[end] for end in ends}}
    row[f"{metric} mean"] = statistics.fmean(values) if values else None
    row[f"{metric} std"] = statistics.stdev(values) if len(values) > 1 else None
    if values:
        worse = -1 if metric in HIGHER_IS_BETTER else 1
        # Of equals, as in `pipeline top`: the one with the smaller training loss, then the earlier one.
        best = min(reversed(scored), key=lambda run: (worse * _value(run, metric), _value(run, CURVE)))
        row |= {f"{metric} best": best[metric], "best run": best["run"], "run_id": best["run_id"]}
    return row


def _end(run: Row) -> str:
    """Say how a run ended that may not be compared with others; empty for one that may."""
    behind = str(run.get("left", "")).startswith(BEHIND)
    return "diverged" if "diverged" in run else BEHIND if behind else ""


def _value(run: Row, metric: str) -> float:
    return float(value) if isinstance(value := run.get(metric), float | int) else math.nan


def _shown(row: Row, metric: str) -> Row:
    mean, std = row[f"{metric} mean"], row[f"{metric} std"]
    around = f" ± {spread(std)}" if isinstance(std, float) else ""
    cells = dict(row)
    del cells[f"{metric} mean"], cells[f"{metric} std"]
    place = list(row).index(f"{metric} mean")
    written = {metric: f"{mean:.6g}{around}" if isinstance(mean, float) else None}
    items = list(cells.items())
    return dict([*items[:place], *written.items(), *items[place:]])
