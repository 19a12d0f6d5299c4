"""What choosing the best costs, by nested cross-validation.

The best of many configurations was lucky on the rows that it was chosen by. So the choice is made once for each fold,
without it: as the leaderboard makes it, by the other folds, each predicted by a fit that saw neither of the two. The
fold itself is then predicted by the chosen configuration's own fit without it.

See: Varma and Simon, Bias in Error Estimation when Using Cross-Validation for Model Selection, 2006.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from pipeline.config.params import HIGHER_IS_BETTER, Evaluate
from pipeline.errors import InputError
from pipeline.evaluation import leaderboard, metrics
from pipeline.runs import outs
from pipeline.runs.records import CURVE, NESTED, NESTED_FILE, Record
from pipeline.table.prepared import Prepared, pairs


def estimate(
    trained: Sequence[Record], board: pd.DataFrame, prepared: Prepared, standardize: bool, settings: Evaluate
) -> dict[str, object]:
    """Choose without each fold, and measure the choice on it.

    Args:
        trained: the runs, with nested cross-validation's fits.
        board: their leaderboard.
        prepared: the data, with at least three folds.
        standardize: data.standardize.
        settings: how the champion is chosen.

    Returns:
        nested/mse, nested/mae and nested/r2, means over the seeds and all tested rows, nine digits, as far as they are
        finite; nested/cost, by how much the one that chose is worse than the champion's; configurations, their number;
        chosen, one for each fold. None is chosen, nor measured, if without some fold every configuration diverges.

    Raises:
        InputError: the fits are lacking.
    """
    if not all(record.inner for record in trained):
        raise InputError(f"{outs.TRAINED}: a variant has no {NESTED_FILE}, for train.nested: true; run: dvc repro")
    every, splits = prepared.with_pairs(standardize), len(prepared.train)
    chosen = [choose(trained, every, fold, splits, settings) for fold in range(1, splits)]
    if not all(chosen):
        return {"configurations": len(board), "chosen": []}
    runs_of = leaderboard.by_configuration(trained)
    figures = measure([runs_of[one] for one in chosen], prepared)
    told, champion = figures.get(settings.metric.replace("cv/", "nested/")), board.iloc[0][f"{settings.metric} mean"]
    sign = -1 if settings.metric in HIGHER_IS_BETTER else 1
    cost = {} if told is None else metrics.rounded({"nested/cost": sign * (told - float(f"{champion:.9g}"))})
    return {**figures, **cost, "configurations": len(board), "chosen": chosen}


def measure(chosen: Sequence[Sequence[Record]], prepared: Prepared) -> dict[str, float]:
    """Measure, on each fold, the runs that were chosen without it, by their own fits without it."""
    y, tested = prepared.y.astype(np.float64)[:, 0], prepared.tested
    square, absolute = np.zeros(len(y)), np.zeros(len(y))
    for fold, runs in enumerate(chosen, start=1):
        y_pred = np.stack([metrics.predictions(record, prepared)[fold, :, 0] for record in runs])
        residual = (y_pred - y)[:, tested[fold]]  # (seeds, m)
        square[tested[fold]], absolute[tested[fold]] = (residual**2).mean(axis=0), np.abs(residual).mean(axis=0)
    rows = tested.any(axis=0)
    mse, spread = float(square[rows].mean()), float(y[rows].var())
    values = mse, float(absolute[rows].mean()), 1 - mse / spread if spread > 0 else math.nan
    return metrics.rounded(dict(zip(NESTED, values, strict=True)))


def choose(trained: Sequence[Record], every: Prepared, fold: int, splits: int, settings: Evaluate) -> str:
    """Choose a configuration as if there were no more rows than those outside a fold; empty if each one diverges.

    Args:
        trained: the runs.
        every: the data, with the pairs of folds after the runs' own splits.
        fold: the split that leaves the fold out.
        splits: the number of a run's own.
        settings: how the champion is chosen.
    """
    places = [place for place, pair in enumerate(pairs(splits)) if fold in pair]
    own = [fold, *(splits + place for place in places)]  # what stands for all training rows, then for each fold
    seen = Prepared(every.X, every.y, every.train[own], every.mean[own], every.scale[own], final=~every.train[fold])
    board = leaderboard.ranked([without(record, fold, places, seen) for record in trained], seen, settings)
    best = board.iloc[0]
    is_one = best["runs"] and not best["diverged"] and math.isfinite(best[f"{settings.metric} mean"])
    return str(best["configuration"]) if is_one else ""


def without(record: Record, fold: int, places: Sequence[int], seen: Prepared) -> Record:
    """Return what a run would be without a fold, with the metrics that choose; a run that diverged stays one.

    Args:
        record: the run.
        fold: the split that leaves the fold out.
        places: of the pairs with that fold, among all pairs.
        seen: the data without the fold.
    """
    tensors = {name: np.stack([record.tensors[name][fold], *own[list(places)]]) for name, own in record.inner.items()}
    lost = not all(np.isfinite(tensor).all() for tensor in tensors.values())
    left = replace(record, tensors=tensors, diverged=record.diverged or "two folds" * lost, metrics={}, inner={})
    if not left.is_whole:
        return left
    y_pred, rows = metrics.predictions(left, seen), seen.train[0]
    error = (y_pred[0] - seen.y.astype(np.float64))[rows]
    found = {**metrics.of_tested(y_pred, seen), CURVE: float((error**2).mean())}  # its curve saw the fold
    return replace(left, metrics=metrics.rounded(found))
