"""The configurations of a sweep, best first, and the champion."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pandas as pd

from pipeline.config.axes import OF_CONFIGURATION, Axis
from pipeline.config.params import Evaluate
from pipeline.evaluation import choice, standard_errors
from pipeline.evaluation.standard_errors import Errors
from pipeline.metrics import RUN_METRICS, WITH_ERROR, as_loss, rounded, summarized
from pipeline.runs.records import BEHIND, CURVE, Record
from pipeline.table.prepared import Prepared


def ranked(evaluated: Sequence[Record], prepared: Prepared, settings: Evaluate) -> pd.DataFrame:
    """Rank the configurations, the champion first."""
    groups = by_configuration(evaluated)
    board = rank(evaluated, settings.metric, standard_errors.compute(groups, prepared))
    runs = {configuration: own[0].run for configuration, own in groups.items()}
    return choice.choose(board, runs, settings.metric, settings.choose, prepared.train_rows[0])


def rank(evaluated: Sequence[Record], metric: str, errors: Errors | None = None) -> pd.DataFrame:
    """Rank the configurations by `metric`, best first, with the mean and standard deviation of each metric over seeds.

    With `errors`, a line also has the numbers of tested rows and folds, and standard errors (`se`).

    `runs` counts the seeds whose metrics are averaged, `diverged` those whose run diverged. A configuration with a
    diverged run ranks below all those without. Of equals, the one with the smaller training loss ranks first, as the
    folds, which have fewer rows, may hide that the fit on all rows is worse. Runs that fell behind have a column if
    there are any; they have no metrics, and rank below those that have. An axis that has its default everywhere has no
    column.
    """
    shown = [axis for axis in OF_CONFIGURATION if axis.is_shown([record.run for record in evaluated])]
    board = pd.DataFrame([line(group, shown, errors) for group in by_configuration(evaluated).values()])
    if BEHIND in board:
        board[BEHIND] = board[BEHIND].fillna(0).astype(int)
    board["worse"] = board[f"{metric} mean"].map(lambda mean: as_loss(metric, mean))
    board["any"] = board["diverged"] > 0
    order = ["any", "worse", f"{CURVE} mean"]
    return board.sort_values(order, kind="stable", ignore_index=True).drop(columns=["any", "worse"])


def line(group: Sequence[Record], shown: Sequence[Axis], errors: Errors | None) -> dict[str, object]:
    """Return a configuration's line, from its runs; `shown` are the axes that have a column."""
    run, whole = group[0].run, sum(record.is_whole for record in group)
    diverged = sum(bool(record.diverged) for record in group)
    row: dict[str, object] = {"configuration": run.configuration, "variant": run.variant}
    row |= {axis.name: getattr(run, axis.name) for axis in shown} | {"runs": whole, "diverged": diverged}
    if left := len(group) - whole - diverged:
        row[BEHIND] = left
    row |= {"tested rows": errors.rows, "folds": errors.folds} if errors else {}
    own = errors.of.get(run.configuration, {}) if errors else {}
    for key in RUN_METRICS:
        values = (record.metrics[key] for record in group if key in record.metrics)
        row[f"{key} mean"], row[f"{key} std"] = summarized(values)
        if errors and key in WITH_ERROR:
            row[f"{key} se"] = own.get(key, math.nan)
    return row


def by_configuration(evaluated: Sequence[Record]) -> dict[str, list[Record]]:
    """Group runs that differ only in their seed."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in evaluated:
        groups[record.run.configuration].append(record)
    return groups


def best(board: pd.DataFrame, evaluated: Sequence[Record], keys: Sequence[str]) -> list[list[Record]]:
    """Choose the best configuration for each value of `keys`; return those of its runs that did not diverge."""
    chosen = set(board.loc[board["runs"] > 0].drop_duplicates(list(keys))["configuration"])
    whole = by_configuration([record for record in evaluated if record.is_whole])
    return [runs for configuration, runs in whole.items() if configuration in chosen]


def summary(board: pd.DataFrame, metric: str, final: Mapping[str, float]) -> dict[str, object]:
    """Reduce the leaderboard to the champion, its metrics and the number of runs, for `dvc metrics`.

    `final` holds the champion's metrics on the final rows, on which only champions are measured.
    """
    best = board.iloc[0]
    metrics = rounded({key: best[f"{key} mean"] for key in RUN_METRICS})
    errors = rounded({f"{key} se": best.get(f"{key} se", math.nan) for key in WITH_ERROR})
    champion = {"configuration": best["configuration"], **metrics, **errors, **final}
    return {
        "metric": metric,
        "champion": champion if best["runs"] else {},
        **{key: int(best[key]) for key in ("tested rows", "folds") if key in best},
        "runs": int(sum(board[column].sum() for column in ("runs", "diverged", BEHIND) if column in board)),
        "diverged": int(board["diverged"].sum()),
    }
