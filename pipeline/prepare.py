"""Stage prepare: the raw table -> checked, split tensors.

Reads `data.source`; writes data/prepared/tensors.safetensors and, for people, data/prepared/summary.json.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pipeline.config.params import Data, Split, load
from pipeline.errors import InputError, leave, printable
from pipeline.runs import outs
from pipeline.system import processes
from pipeline.system.files import file_md5, replacing, write_json
from pipeline.system.kernels import check_pins
from pipeline.system.progress import Display, count
from pipeline.table.float32 import Altered, in_float32, warn
from pipeline.table.prepared import identity, standardization
from pipeline.table.raw import read

Mask = NDArray[np.bool_]


def main() -> None:
    """Run the stage."""
    check_pins()
    processes.stop_when_told()
    data = load().data
    with Display("prepare") as display:
        table, altered = read(Path(data.source), [*data.features, data.target], data.exact, display.reading)
    train, kept = split(len(table), data.split), final(len(table), data.split)
    X = in_float32(table[data.features].to_numpy())  # (n, k)
    y = in_float32(table[[data.target]].to_numpy())  # (n, 1)
    mean, scale = standardization(X, train) if data.standardize else identity(len(train), X.shape[1])
    tensors = {"X": X, "y": y, "train": train, "mean": mean, "scale": scale}
    tensors |= {"final": kept} if kept.any() else {}
    with replacing(outs.PREPARED) as temporary:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary)
    # Written last: if it matches params.yaml, so do the tensors.
    write_json(outs.SUMMARY, summarize(data, table, train, altered))
    warn(data.source, altered, len(table))
    columns = f"{count(len(data.features), 'feature')}, target {printable(data.target)}"
    display.say(f"{count(len(table), 'row')} of {printable(data.source)}; {columns}; {count(len(train), 'split')}")


def split(n: int, settings: Split) -> Mask:
    """Choose the training rows of each split.

    Returns:
        train (S, n), bool. kfold: first all rows, then all but each fold's. holdout: S = 1, all but the held-out rows.
        Final rows are in no split.

    Raises:
        InputError: there are too few rows.
    """
    kept, order = draw(n, settings)
    left = len(order)
    if settings.method == "holdout":
        parts = [order[: round(left * settings.test_fraction)]]
        if not 0 < len(parts[0]) < left:
            raise InputError(
                f"params.yaml: data.split.test_fraction: got {settings.test_fraction}, which leaves none of "
                f"{left} rows to train on, or none to test on"
            )
    elif left < settings.folds:
        rows = "rows that data.split.final_test leaves" if len(kept) else "rows"
        takes = f"takes at most {left}, the number of {rows}"
        raise InputError(f"params.yaml: data.split.folds: got {settings.folds}, {takes}")
    else:
        parts = [order[:0], *np.array_split(order, settings.folds)]
    train = np.ones((len(parts), n), dtype=bool)
    for mask, test_rows in zip(train, parts, strict=True):
        mask[kept] = mask[test_rows] = False
    return train


def final(n: int, settings: Split) -> Mask:
    """Choose the final rows (n,), bool: no split trains on or tests them; only champions are measured on them."""
    chosen = np.zeros(n, dtype=bool)
    chosen[draw(n, settings)[0]] = True
    return chosen


def draw(n: int, settings: Split) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Draw the final rows, and the order in which the splits take the others.

    Raises:
        InputError: data.split.final_test keeps no row, or too many.
    """
    drawn = np.random.RandomState(settings.seed).permutation(n)  # RandomState, because numpy keeps its stream unchanged
    count = round(n * settings.final_test)
    if settings.final_test and not 0 < count < n - 1:
        raise InputError(
            f"params.yaml: data.split.final_test: got {settings.final_test}, which keeps {count} of {n} rows, "
            "takes a fraction that keeps at least one and leaves at least two"
        )
    return drawn[:count], drawn[count:]


def summarize(data: Data, table: pd.DataFrame, train: Mask, altered: Mapping[str, Altered]) -> dict[str, object]:
    """Describe the prepared data, for people and for the records: source, number of rows, columns.

    A column that float32 changes has the number of changed numbers, and the one that changes most.
    """
    return {
        "source": data.source,
        "source_md5": file_md5(Path(data.source)),
        "rows": len(table),
        "features": data.features,
        "target": data.target,
        "columns": {str(name): _described(column, altered.get(str(name))) for name, column in table.items()},
        "split": data.split.model_dump(exclude_defaults=True),  # summaries of older versions have no final_test
        "train_rows": train.sum(axis=1).tolist(),
        "standardize": data.standardize,
    }


def _described(column: "pd.Series[float]", altered: Altered | None) -> dict[str, object]:
    known: dict[str, object] = {kind: float(column.agg(kind)) for kind in ("min", "mean", "max")}
    if altered:
        worst = dict(zip(("row", "written", "float32"), altered.worst, strict=True))
        known["altered"] = {"count": altered.count, "worst": worst}
    return known


if __name__ == "__main__":
    main()
    leave()
