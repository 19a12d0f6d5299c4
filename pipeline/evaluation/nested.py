"""What choosing the best costs, by nested cross-validation.

The best of many configurations was partly lucky on the rows by which it was chosen. So a configuration is chosen anew
for each fold, without that fold: as the leaderboard does, by the other folds, each of which a fit predicts that saw
neither of the two. The chosen configuration's own fit without the fold then predicts the fold.

See: Varma and Simon, Bias in Error Estimation when Using Cross-Validation for Model Selection, 2006.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from pipeline.config.params import Evaluate
from pipeline.errors import InputError
from pipeline.evaluation import leaderboard, outcome
from pipeline.metrics import COST, NAMED, TESTED, Rows, as_loss, rounded
from pipeline.runs import outs
from pipeline.runs.records import CURVE, NESTED_FILE, Record
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
        nested/mse and so on, means over the seeds and all tested rows, nine digits, as far as they are finite;
        nested/cost, by how much the metric that chooses is worse than the champion's; configurations, their number;
        chosen, one for each fold. Without some fold, every configuration may diverge: then none is chosen or measured.

    Raises:
        InputError: the fits are missing.
    """
    if not all(record.inner for record in trained):
        raise InputError(f"{outs.TRAINED}: a variant has no {NESTED_FILE}, for train.nested: true; run: dvc repro")
    every, splits = prepared.with_pairs(standardize), len(prepared.train)
    chosen = [choose(trained, every, fold, splits, settings) for fold in range(1, splits)]
    if not all(chosen):
        return {"configurations": len(board), "chosen": []}
    runs_of = leaderboard.by_configuration(trained)
    figures = measure([runs_of[one] for one in chosen], prepared)
    reached, champion = figures.get(NAMED[settings.metric].on("nested")), board.iloc[0][f"{settings.metric} mean"]
    losses = [as_loss(settings.metric, value) for value in (reached, float(f"{champion:.9g}"))]
    return {**figures, **rounded({COST: losses[0] - losses[1]}), "configurations": len(board), "chosen": chosen}


def measure(chosen: Sequence[Sequence[Record]], prepared: Prepared) -> dict[str, float]:
    """Measure, on each fold, the runs that were chosen without it, by their own fits without it.

    Configurations may have different numbers of seeds: each is repeated until all have as many.
    """
    seeds = math.lcm(*map(len, chosen))
    y_pred = np.empty((seeds, len(prepared.train), *prepared.y.shape))
    for fold, runs in enumerate(chosen, start=1):
        own = np.stack([outcome.predictions(record, prepared)[fold] for record in runs])
        y_pred[:, fold] = np.tile(own, (seeds // len(runs), 1, 1))
    return outcome.means([outcome.tested_rows(one, prepared) for one in y_pred], "nested")


def choose(trained: Sequence[Record], every: Prepared, fold: int, splits: int, settings: Evaluate) -> str:
    """Choose a configuration as if a fold's rows did not exist; empty if each one diverges.

    Args:
        trained: the runs.
        every: the data, with the pairs of folds after the runs' own splits.
        fold: the split that leaves the fold out.
        splits: the number of the runs' own splits.
        settings: how the champion is chosen.
    """
    places = [place for place, pair in enumerate(pairs(splits)) if fold in pair]
    own = [fold, *(splits + place for place in places)]  # in place of the fit on all training rows, and of each fold's
    seen = Prepared(every.X, every.y, every.train[own], every.mean[own], every.scale[own], final=~every.train[fold])
    board = leaderboard.ranked([without(record, fold, places, seen) for record in trained], seen, settings)
    best = board.iloc[0]
    is_one = best["runs"] and not best["diverged"] and math.isfinite(best[f"{settings.metric} mean"])
    return str(best["configuration"]) if is_one else ""


def without(record: Record, fold: int, places: Sequence[int], seen: Prepared) -> Record:
    """Return what a run would be without a fold, with the metrics that choose; a run that diverged stays diverged.

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
    y_pred, train = outcome.predictions(left, seen), seen.train[0]
    tested = outcome.tested_rows(y_pred, seen)
    found = {one.key: one.of_rows(tested) for one in TESTED if one.of_rows}
    found[CURVE] = Rows(y_pred[0, train, 0], seen.y.astype(np.float64)[train, 0]).mse  # its curve saw the fold
    return replace(left, metrics=rounded(found))
