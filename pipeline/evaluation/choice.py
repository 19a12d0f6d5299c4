"""The champion: the best configuration, or the plainest of those that are as good within one standard error.

See: Breiman, Friedman, Olshen and Stone, Classification and Regression Trees, 3.4.3; Hastie, Tibshirani and Friedman,
The Elements of Statistical Learning, 7.10. A model that is trained from its initial values is plainer the less it was
trained: least squares stopped at the time t = lr · updates is close to ridge regression with the penalty 1/t
(Ali, Kolter and Tibshirani, A Continuous-Time View of Early Stopping for Least Squares Regression, 2019).
"""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.metrics import COST, CURVE, NAMED, as_loss
from pipeline.runs.run import Run

if TYPE_CHECKING:  # it loads in 0.3 s
    import pandas as pd

    from pipeline.runs.records import Record

MOST = 5  # configurations that were chosen without a fold, named one by one
FAR_MORE = 10  # configurations for each tested row; beyond it, the best one is partly luck


def choose(board: "pd.DataFrame", runs: Mapping[str, Run], metric: str, rule: str, rows: int) -> "pd.DataFrame":
    """Put the champion first on a leaderboard, and leave the rest in its order.

    Args:
        board: the best first, with standard errors.
        runs: configuration -> one of its runs.
        metric: the one that ranked the board; it has a standard error.
        rule: evaluate.choose, best or one_se.
        rows: the number of training rows of the first split.
    """
    best = board.iloc[0]
    error = best.get(f"{metric} se", math.nan)
    if rule == "best" or best["diverged"] or not math.isfinite(error):
        return board
    losses = board[f"{metric} mean"].map(lambda mean: as_loss(metric, mean))
    within = (board["diverged"] == 0) & (losses - losses.iloc[0] <= error)
    chosen = min(board.index[within], key=lambda at: (*plainness(runs[board["configuration"][at]], rows), at))
    return board.loc[[chosen, *board.index.drop(chosen)]].reset_index(drop=True)


def plainness(run: Run, rows: int) -> tuple[float, ...]:
    """Return what orders configurations, the plainest first: training time, less weight decay, updates.

    A schedule counts as constant, and every optimizer's lr as it stands. Of equals, the better ranks first.
    """
    steps = -(-rows // run.minibatch(rows))
    updates = steps * run.epochs
    return run.lr * updates, -getattr(run, "weight_decay", 0.0), updates


def place(metric: str, values: Mapping[str, object]) -> tuple[float, float]:
    """Return what orders runs by a metric, the best first; of equals, the one with the smaller training loss.

    Args:
        metric: the metric.
        values: a run's metrics.
    """
    return as_loss(metric, values.get(metric)), as_loss(CURVE, values.get(CURVE))


def best_run(evaluated: Iterable["Record"], configuration: str, metric: str) -> "Record | None":
    """Choose a configuration's best run, the first of equals; None if each of them diverged or fell behind."""
    ordered = sorted((one for one in evaluated if one.is_whole), key=lambda one: place(metric, one.metrics))
    return next((one for one in ordered if one.run.configuration == configuration), None)  # a name takes 0.05 ms


def costs(summary: Mapping[str, Any]) -> str:
    """Say what choosing costs, and what was chosen without each fold; empty without nested cross-validation.

    Args:
        summary: metrics.json.
    """
    if (nested := summary.get("nested")) is None:
        return ""
    if not nested["chosen"]:
        return "what choosing costs is unknown: without one of the folds, every configuration has a run that diverged"
    if (cost := nested.get(COST)) is None:
        return ""  # cv/r2 of a constant target
    metric, count = summary["metric"], nested["configurations"]
    key = NAMED[metric].on("nested")
    said = f"choosing costs {cost:.3g}" if cost > 0 else "choosing seems to cost nothing"
    figures = f"{metric} {summary['champion'][metric]:.6g}, {key} {nested[key]:.6g}"
    folds: dict[str, list[str]] = {}
    for fold, one in enumerate(nested["chosen"], start=1):
        folds.setdefault(one, []).append(str(fold))
    chosen = [f"without fold {', '.join(own)}: {one}" for one, own in folds.items()]
    more = f"; and {len(chosen) - MOST:,} more" if len(chosen) > MOST else ""
    of = f"choosing the best of {count:,} configuration{'s' * (count > 1)}"
    return f"{of}: {figures}: {said}. Chosen {'; '.join(chosen[:MOST])}{more}"


def lucky(configurations: int, rows: object) -> str:
    """Warn that far more configurations than tested rows were compared; empty if they were not."""
    if not isinstance(rows, int) or not 0 < FAR_MORE * rows < configurations:
        return ""
    return (
        f"{configurations:,} configurations are compared on {rows:,} tested row{'s' * (rows > 1)}, more than "
        f"{FAR_MORE} for each: the best of them is lucky too; data.split.final_test or train.nested tells how much"
    )
