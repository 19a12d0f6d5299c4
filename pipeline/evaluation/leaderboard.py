"""The configurations of a sweep, best first, and the champion."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.config.axes import OF_CONFIGURATION
from pipeline.config.params import Evaluate
from pipeline.evaluation import choice, standard_errors
from pipeline.evaluation.standard_errors import Errors
from pipeline.metrics import RUN_METRICS, WITH_ERROR, as_loss, summarized
from pipeline.runs.records import BEHIND, CURVE, Record
from pipeline.table.prepared import Prepared

Float64 = NDArray[np.float64]


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
    rows, shown = [], [axis for axis in OF_CONFIGURATION if axis.is_shown([record.run for record in evaluated])]
    for configuration, group in by_configuration(evaluated).items():
        run = group[0].run
        row: dict[str, object] = {"configuration": configuration, "variant": run.variant}
        row |= {axis.name: getattr(run, axis.name) for axis in shown}
        row["runs"] = sum(record.is_whole for record in group)
        row["diverged"] = sum(bool(record.diverged) for record in group)
        if left := len(group) - sum(record.is_whole or bool(record.diverged) for record in group):
            row[BEHIND] = left
        row |= {"tested rows": errors.rows, "folds": errors.folds} if errors else {}
        own = errors.of.get(configuration, {}) if errors else {}
        for key in RUN_METRICS:
            values = (record.metrics[key] for record in group if key in record.metrics)
            row[f"{key} mean"], row[f"{key} std"] = summarized(values)
            if errors and key in WITH_ERROR:
                row[f"{key} se"] = own.get(key, math.nan)
        rows.append(row)
    board = pd.DataFrame(rows)
    if BEHIND in board:
        board[BEHIND] = board[BEHIND].fillna(0).astype(int)
    board["worse"] = board[f"{metric} mean"].map(lambda mean: as_loss(metric, mean))
    board["any"] = board["diverged"] > 0
    order = ["any", "worse", f"{CURVE} mean"]
    return board.sort_values(order, kind="stable", ignore_index=True).drop(columns=["any", "worse"])


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


def summary(board: pd.DataFrame, metric: str, final: Mapping[str, float] | None = None) -> dict[str, object]:
    """Reduce the leaderboard to the champion, its metrics and the number of runs, for `dvc metrics`.

    `final` holds the champion's metrics on the final rows, on which only champions are measured.
    """
    champion = board.iloc[0]
    metrics = {
        key: float(f"{champion[f'{key} mean']:.9g}") for key in RUN_METRICS if math.isfinite(champion[f"{key} mean"])
    }
    errors = {
        f"{key} se": float(champion[f"{key} se"])
        for key in WITH_ERROR
        if math.isfinite(champion.get(f"{key} se", math.nan))
    }
    rests = {key: int(champion[key]) for key in ("tested rows", "folds") if key in champion}
    return {
        "metric": metric,
        "champion": {"configuration": champion["configuration"], **metrics, **errors, **(final or {})}
        if champion["runs"]
        else {},
        **rests,
        "runs": int(sum(board[column].sum() for column in ("runs", "diverged", BEHIND) if column in board)),
        "diverged": int(board["diverged"].sum()),
    }
