"""Stage prepare: the raw table -> checked, split tensors.

Reads `data.source`; writes data/prepared/tensors.safetensors and, for people, data/prepared/summary.json.
"""

import lzma
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray
from pandera.errors import SchemaErrors
from safetensors.numpy import save_file

from pipeline import check_pins, outs, provenance
from pipeline.params import Data, InputError, Split, load

FLOAT32_MAX = float(np.finfo(np.float32).max)
UNREADABLE = (OSError, ValueError, EOFError, ImportError, lzma.LZMAError, zipfile.BadZipFile, zlib.error)
Mask = NDArray[np.bool_]
Float32 = NDArray[np.float32]


def main() -> None:
    """Run the stage."""
    check_pins()
    provenance.stop_when_told()
    data = load().data
    table = read(Path(data.source), [*data.features, data.target])
    train = split(len(table), data.split)
    X = table[data.features].to_numpy(np.float32)  # (n, k)
    y = table[[data.target]].to_numpy(np.float32)  # (n, 1)
    mean, scale = standardization(X, train) if data.standardize else identity(len(train), X.shape[1])
    tensors = {"X": X, "y": y, "train": train, "mean": mean, "scale": scale}
    with outs.replacing(outs.PREPARED) as temporary:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary)
    outs.write_json(outs.SUMMARY, summarize(data, table, train))


def read(source: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read and check a CSV file's columns.

    Returns:
        table (n, len(columns)), float64, every value finite and within float32.

    Raises:
        InputError: listing every missing column, or every bad cell with row (1 is the first below the header,
            blank lines do not count), column and value.
    """
    if source.exists() and not source.is_file():  # opening a FIFO waits for a writer, a device may never end
        raise InputError(f"{source}: is not a regular file; params.yaml names it in data.source")
    try:
        cells = pd.read_csv(source, dtype=str, keep_default_na=False)
        header = pd.read_csv(source, dtype=str, keep_default_na=False, header=None, nrows=1).iloc[0].tolist()
    except FileNotFoundError as error:
        raise InputError(f"{source}: no such file; params.yaml names it in data.source") from error
    except UNREADABLE as error:  # ImportError: zst without its package
        raise InputError(f"{source}: cannot be read as CSV: {error}") from error
    if not isinstance(cells.index, pd.RangeIndex):  # pandas takes what is too much for an index
        raise InputError(f"{source}: its rows have more cells than its header has columns")
    if repeated := [column for column in columns if header.count(column) > 1]:
        raise InputError(
            "\n".join(f"{source}: column {name!r} stands in the header more than once" for name in repeated)
        )
    if missing := [column for column in columns if column not in cells]:
        there = ", ".join(map(str, cells.columns))
        raise InputError("\n".join(f"{source}: column {name!r} is missing; it has: {there}" for name in missing))
    if cells.empty:
        raise InputError(f"{source}: has no rows below its header")
    numbers: pd.DataFrame = cells[list(columns)].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    finite = pa.Check(lambda column: column.abs() <= FLOAT32_MAX, error="finite")
    try:
        pa.DataFrameSchema({name: pa.Column(float, finite) for name in columns}).validate(numbers, lazy=True)
    except SchemaErrors as error:
        places = error.failure_cases[["index", "column"]].drop_duplicates().sort_values(["index", "column"])
        texts = [(row, column, cells[column].iloc[row]) for row, column in places.itertuples(index=False)]
        faults = [f"{source}: row {row + 1}, column {name!r}: {text!r} {cell_fault(text)}" for row, name, text in texts]
        raise InputError("\n".join(faults)) from None
    return numbers


def cell_fault(text: str) -> str:
    """Say why a cell's text is no finite float32 number."""
    if not text.strip():
        return "is empty"
    if text.strip().lower() in {"nan", "na", "n/a", "null", "none"}:
        return "is NaN"
    number = pd.to_numeric(text, errors="coerce")
    if np.isnan(number):
        return "is not numeric"
    return "is infinite" if "inf" in text.lower() else "is too large for float32"


def split(n: int, settings: Split) -> Mask:
    """Choose the training rows of each split.

    Returns:
        train (S, n), bool. kfold: first all rows, then all but each fold's. holdout: S = 1, all but the held-out.

    Raises:
        InputError: n rows are too few.
    """
    order = np.random.RandomState(settings.seed).permutation(n)  # RandomState: its stream is frozen for good
    if settings.method == "holdout":
        parts = [order[: round(n * settings.test_fraction)]]
        if not 0 < len(parts[0]) < n:
            raise InputError(
                f"params.yaml: data.split.test_fraction: got {settings.test_fraction}, of {n} rows that leaves "
                "none to train or none to test on"
            )
    elif n < settings.folds:
        raise InputError(f"params.yaml: data.split.folds: got {settings.folds}, takes at most the {n} rows there are")
    else:
        parts = [order[:0], *np.array_split(order, settings.folds)]
    train = np.ones((len(parts), n), dtype=bool)
    for mask, test_rows in zip(train, parts, strict=True):
        mask[test_rows] = False
    return train


def standardization(X: Float32, train: Mask) -> tuple[Float32, Float32]:
    """Take mean and standard deviation of each split's training rows; a constant feature's scale is 1.

    Args:
        X: (n, k), float32.
        train: (S, n), bool.

    Returns:
        mean (S, k), scale (S, k), float32, in the features' units.
    """
    rows = [X[mask].astype(np.float64) for mask in train]
    mean = np.stack([part.mean(axis=0) for part in rows]).astype(np.float32)
    scale = np.stack([part.std(axis=0) for part in rows]).astype(np.float32)
    return mean, np.where(scale > 0, scale, np.float32(1))


def identity(splits: int, k: int) -> tuple[Float32, Float32]:
    """Return the mean (S, k) and scale (S, k), float32, that leave features as they are."""
    return np.zeros((splits, k), dtype=np.float32), np.ones((splits, k), dtype=np.float32)


def summarize(data: Data, table: pd.DataFrame, train: Mask) -> dict[str, object]:
    """Describe the prepared data for people and for the records: where from, how many rows, which columns."""
    return {
        "source": data.source,
        "source_md5": outs.md5(Path(data.source)),
        "rows": len(table),
        "features": data.features,
        "target": data.target,
        "columns": {str(name): _range(column) for name, column in table.items()},
        "split": data.split.model_dump(),
        "train_rows": train.sum(axis=1).tolist(),
        "standardize": data.standardize,
    }


def _range(column: "pd.Series[float]") -> dict[str, float]:
    return {"min": float(column.min()), "mean": float(column.mean()), "max": float(column.max())}


if __name__ == "__main__":
    main()
