"""Stage evaluate: records -> figures of every run, leaderboard, plots and the champion.

Reads data/prepared and data/trained; writes data/evaluated/runs.csv, leaderboard.csv, metrics.json and plots/.
"""

import math
import shutil
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from pipeline import check_pins, outs, plots, records, sweep
from pipeline.params import HIGHER_IS_BETTER, Params, load
from pipeline.prepared import check_prepared
from pipeline.records import CURVE, FIGURES, Record
from pipeline.sweep import curve_steps
from pipeline.tracker import Tracker

Float64 = NDArray[np.float64]


def main() -> None:
    """Run the stage."""
    check_pins()
    params = load()
    check_prepared(params.data)
    forget_other_variants(params.variants)
    with Tracker(params, sweep.plan(params)) as tracker:
        prepared = load_file(outs.PREPARED)
        trained = [record for variant in params.variants for record in records.read(outs.TRAINED / variant)]
        evaluated = [replace(record, metrics=figures(record, prepared)) for record in trained]
        board = leaderboard(evaluated, params.evaluate.metric)
        write(evaluated, board, prepared, params)
        champion = str(board["configuration"].iloc[0]) if board["runs"].iloc[0] else ""
        tracker.complete(evaluated, [outs.LEADERBOARD, outs.METRICS, *sorted(outs.PLOTS.glob("*"))], champion)


def forget_other_variants(variants: Sequence[str]) -> None:
    """Remove outs of variants that params.yaml no longer lists: DVC leaves them, and hashes the folder with them."""
    for folder in outs.TRAINED.iterdir():
        if folder.is_dir() and folder.name not in variants:
            shutil.rmtree(folder)


def figures(record: Record, prepared: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
    """Compute a run's metrics from its weights, in float64; a diverged run has none, and none is non-finite."""
    if record.diverged:
        return {}
    y = prepared["y"].astype(np.float64)  # (n, 1)
    train = prepared["train"].astype(bool)  # (S, n)
    y_pred = predictions(record, prepared)  # (S, n, 1)
    X = standardized(prepared, 0)[train[0]]  # (n', k)
    error = (y_pred[0] - y)[train[0]]
    held_out = out_of_sample(y_pred, train)  # (n, 1), NaN where a row is trained on by every split
    tested = ~train.all(axis=0)
    residual = (held_out - y)[tested]
    spread = ((y - y[tested].mean())[tested] ** 2).mean()
    mse = float((error**2).mean())
    # Float64 holds 16 digits, and a difference those that the size of its terms leaves: rounded three digits above.
    excess = round_to(mse - least_squares_mse(X, y[train[0]]), 1e-13 * max(mse, float(y[train[0]].var())))
    values = {
        "cv/mse": float((residual**2).mean()),
        "cv/mae": float(np.abs(residual).mean()),
        "cv/r2": float(1 - (residual**2).mean() / spread) if spread > 0 else math.nan,
        "train/mse": float(record.curve[-1]),
        "excess_mse": excess,
        "grad_error": round_to(gradient_error(record, X, y[train[0]], error), 1e-13),  # relative: its terms' size is 1
    }
    # Nine digits, as people read them. The curve's float32 is exact as it is.
    rounded = {key: value if key == "train/mse" else float(f"{value:.9g}") for key, value in values.items()}
    return {key: value for key, value in rounded.items() if math.isfinite(value)}


def round_to(value: float, unit: float) -> float:
    """Round to the power of ten at or above `unit`, so that what lies below does not decide a digit."""
    return round(value, -math.ceil(math.log10(unit))) if unit > 0 and math.isfinite(value) else value


def product(X: Float64, W: Float64) -> Float64:
    """Multiply X (n, k) and W (k, 1) -> (n, 1), summed in numpy's own order.

    BLAS would choose the order by processor.
    """
    return np.asarray((X * W[:, 0]).sum(axis=1, keepdims=True))


def standardized(prepared: Mapping[str, NDArray[np.generic]], split: int) -> Float64:
    """Return X (n, k) as a split's runs saw it, float32 values."""
    X = (prepared["X"] - prepared["mean"][split]) / prepared["scale"][split]
    return np.asarray(X, dtype=np.float64)


def predictions(record: Record, prepared: Mapping[str, NDArray[np.generic]]) -> Float64:
    """Predict every row with every split's weights: (S, n, 1)."""
    weights = zip(record.tensors["W"].astype(np.float64), record.tensors["b"].astype(np.float64), strict=True)
    return np.stack([product(standardized(prepared, split), W) + b for split, (W, b) in enumerate(weights)])


def out_of_sample(y_pred: Float64, train: NDArray[np.bool_]) -> Float64:
    """Choose each row's prediction by the split that did not train on it: (n, 1), NaN where there is none."""
    chosen = np.full(y_pred.shape[1:], np.nan)
    for split, rows in enumerate(~train):
        chosen[rows] = y_pred[split][rows]
    return chosen


def least_squares_mse(X: Float64, y: Float64) -> float:
    """Return the smallest mean squared error that any W and b reach on X (n, k), y (n, 1).

    See: the normal equations; solved by numpy.linalg.lstsq on centred columns.
    """
    X, y = X - X.mean(axis=0), y - y.mean()
    W = np.asarray(np.linalg.lstsq(X, y)[0], dtype=np.float64)
    return float(((product(X, W) - y) ** 2).mean())


def gradient_error(record: Record, X: Float64, y: Float64, error: Float64) -> float:
    """Compare autograd's gradient with 2/n · Xᵀ(Xw + b − y), relative to the size of the terms that it sums.

    See: Higham, Accuracy and Stability of Numerical Algorithms, 3.5: rounding errs by about 1e-7 · 2/n · |X|ᵀ|…|.
    """
    X1 = np.hstack([X, np.ones_like(y)])  # (n, k + 1)
    W = np.vstack([record.tensors["W"][0], record.tensors["b"][0][:, None]]).astype(np.float64)
    autograd = np.vstack([record.tensors["grad_W"], record.tensors["grad_b"][:, None]]).astype(np.float64)
    formula = 2 / len(y) * (X1 * error).sum(axis=0)[:, None]
    terms = product(np.abs(X1), np.abs(W)) + np.abs(y)
    size = 2 / len(y) * (np.abs(X1) * terms).sum(axis=0)[:, None]
    return float((np.abs(autograd - formula) / np.where(size > 0, size, 1)).max())


def leaderboard(evaluated: Sequence[Record], metric: str) -> pd.DataFrame:
    """Put the configurations in order, best first by `metric`: mean and standard deviation of each figure over seeds.

    `runs` counts the seeds that the figures are taken over, `diverged` those that diverged; a configuration with a
    diverged run stands below all that have none.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in evaluated:
        groups[record.run.configuration].append(record)
    rows = []
    for configuration, group in groups.items():
        run = group[0].run
        row: dict[str, object] = {"configuration": configuration, "variant": run.variant}
        row |= {"batch_size": run.batch_size, "lr": run.lr, "runs": sum(not record.diverged for record in group)}
        row["diverged"] = sum(bool(record.diverged) for record in group)
        for key in FIGURES:
            values = [record.metrics[key] for record in group if key in record.metrics]
            row[f"{key} mean"] = statistics.fmean(values) if values else math.nan
            row[f"{key} std"] = statistics.stdev(values) if len(values) > 1 else math.nan
        rows.append(row)
    board = pd.DataFrame(rows)
    board["worse"] = board[f"{metric} mean"] * (-1 if metric in HIGHER_IS_BETTER else 1)
    board["any"] = board["diverged"] > 0
    return board.sort_values(["any", "worse"], kind="stable", ignore_index=True).drop(columns=["any", "worse"])


def write(
    evaluated: Sequence[Record],
    board: pd.DataFrame,
    prepared: Mapping[str, NDArray[np.generic]],
    params: Params,
) -> None:
    """Write the stage's outs."""
    runs = [{"name": one.run.name, "fingerprint": one.run.fingerprint, **one.metrics} for one in evaluated]
    outs.write_csv(outs.EVALUATED, runs, ["name", "fingerprint", *FIGURES])
    with outs.replacing(outs.LEADERBOARD) as temporary:
        board.to_csv(temporary, index=False, float_format="%.9g")
    outs.write_json(outs.METRICS, summary(board, params.evaluate.metric))
    loss = loss_curves(best(board, evaluated, ["variant", "batch_size"]), params.track.points)
    predicted = predicted_rows(best(board, evaluated, ["variant"]), prepared)
    for name, table, draw in (("loss", loss, plots.draw_loss), ("predicted", predicted, plots.draw_predicted)):
        with outs.replacing(outs.PLOTS / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.9g")
        with outs.replacing(outs.PLOTS / f"{name}.png") as temporary:
            draw(table, temporary)


def best(board: pd.DataFrame, evaluated: Sequence[Record], keys: Sequence[str]) -> list[list[Record]]:
    """Choose the best configuration for each value of `keys`; return the runs of each that did not diverge."""
    chosen = set(board.loc[board["runs"] > 0].drop_duplicates(list(keys))["configuration"])
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in evaluated:
        if record.run.configuration in chosen and not record.diverged:
            groups[record.run.configuration].append(record)
    return list(groups.values())


def loss_curves(groups: Sequence[Sequence[Record]], points: int) -> pd.DataFrame:
    """Tabulate the curve of each group's configuration, mean over seeds, at the epochs that are tracked."""
    tables = []
    for group in groups:
        run, steps = group[0].run, curve_steps(group[0].run.epochs, points)
        mean = np.asarray(np.mean([record.curve[steps] for record in group], axis=0, dtype=np.float64))
        tables.append(
            pd.DataFrame({"variant": run.variant, "batch_size": str(run.batch_size), "epoch": steps, CURVE: mean})
        )
    return pd.concat(tables) if tables else pd.DataFrame(columns=["variant", "batch_size", "epoch", CURVE])


def predicted_rows(groups: Sequence[Sequence[Record]], prepared: Mapping[str, NDArray[np.generic]]) -> pd.DataFrame:
    """Tabulate each tested row's actual target and its out-of-sample prediction, mean over seeds."""
    train, y = prepared["train"].astype(bool), prepared["y"].astype(np.float64).flatten()
    tables = []
    for group in groups:
        held_out = [out_of_sample(predictions(record, prepared), train).flatten() for record in group]
        table = pd.DataFrame({"variant": group[0].run.variant, "actual": y, "predicted": np.mean(held_out, axis=0)})
        tables.append(table.dropna())
    return pd.concat(tables) if tables else pd.DataFrame(columns=["variant", "actual", "predicted"])


def summary(board: pd.DataFrame, metric: str) -> dict[str, object]:
    """Reduce the leaderboard to the champion, its figures and the numbers of runs, for `dvc metrics`."""
    champion = board.iloc[0]
    figures = {
        key: float(f"{champion[f'{key} mean']:.9g}") for key in FIGURES if math.isfinite(champion[f"{key} mean"])
    }
    return {
        "metric": metric,
        "champion": {"configuration": champion["configuration"], **figures} if champion["runs"] else {},
        "runs": int(board["runs"].sum() + board["diverged"].sum()),
        "diverged": int(board["diverged"].sum()),
    }


if __name__ == "__main__":
    main()
