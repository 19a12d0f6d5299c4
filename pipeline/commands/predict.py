"""`pipeline predict`: a table with the features' columns -> the same table with a column of predictions.

It reads, predicts and writes some rows at a time, so that a table of any size takes the same memory.
"""

import csv
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count, islice
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
from pandas.io.common import get_handle, infer_compression  # type: ignore[import-not-found] # as the reader does
from rich.console import Console

from pipeline.config.params import load
from pipeline.errors import InputError, printable
from pipeline.system import progress
from pipeline.system.files import replacing
from pipeline.system.progress import Display
from pipeline.table import float32, raw
from pipeline.table.raw import Fault
from pipeline.tracking import models
from pipeline.tracking.models import Predictor

CELLS = 2**16  # that are read at once
TOO_LARGE = "its prediction is too large for float32"
Rows = list[list[str]]


def predict(source: Path, output: Path | None, run: str, version: int | None) -> str:
    """Write a table with its predictions, whole or not at all; return how many rows, and the run that predicts.

    Args:
        source: a CSV file, which may be compressed.
        output: the new file, compressed as its name says; None for standard output.
        run: an id, a fingerprint, or the first digits of one; empty for a registered version.
        version: of the registered model; None for its champion.

    Raises:
        InputError: the run cannot predict, or the table's columns or cells are not what it needs.
    """
    refuse_place(source, output)
    params = load()
    experiment = params.track.experiment
    run = run or models.run_of(experiment, {"source": params.data.source}, version)
    model = models.predictor(experiment, run)
    with writing(output) as file, Display("predict", Console(stderr=True, highlight=False, soft_wrap=True)) as display:
        lines = read(source)
        rows = write(file, source, display.reading(lines) if display.redraws else lines, model)
    return f"{progress.count(rows, 'row')} predicted by {model.name} (run {model.run_id})"


def refuse_place(source: Path, output: Path | None) -> None:
    """Refuse to overwrite the table that is read, or to write into a folder that does not exist."""
    if output and not output.parent.is_dir():
        raise InputError(f"{printable(output.parent)}: no such folder, to write {printable(output.name)} in")
    if output and output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"{printable(output)}: is the table to predict; choose another file for --output")


@contextmanager
def writing(output: Path | None) -> Iterator[TextIO]:
    """Yield a file that, once it is whole, replaces `output` or is copied to standard output."""
    if output is None:
        with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as file:
            yield file
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout)
        return
    compression = infer_compression(str(output), "infer")
    with (
        replacing(output) as temporary,
        get_handle(temporary, "w", encoding="utf-8", compression=compression) as opened,
    ):
        yield opened.handle


def read(source: Path) -> Iterator[list[str]]:
    """Yield the header and every row of a CSV file."""
    with raw.refusing(source):
        yield from raw.strict_rows(source)


def write(file: TextIO, source: Path, lines: Iterator[list[str]], model: Predictor) -> int:
    """Write each row with its prediction, in the shortest digits that restore its bits; return the number of rows."""
    header = next(lines, None)
    if header is None:
        raise InputError(f"{printable(source)}: cannot be read as CSV: it has no header")
    places = raw.places(source, header, model.columns.features)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*header, free_name(f"{model.columns.target}_pred", header)])
    rows, parts = 0, numbered_parts(lines, max(1, CELLS // len(header)))
    for first, part in parts:
        y_pred, faults = predict_part(first, part, header, places, model)
        if faults:
            later = (predict_part(*one, header, places, model)[1] for one in parts)
            raw.refuse(source, chain(faults, chain.from_iterable(later)))
        writer.writerows([*row, y] for row, y in zip(part, y_pred, strict=True))
        rows += len(part)
    return rows


def free_name(name: str, header: Sequence[str]) -> str:
    """Return a name for a new column: `name`, with a number appended if the table already has that column."""
    numbered = (f"{name}_{number}" for number in count(2))
    return next(one for one in chain([name], numbered) if one not in header)


def numbered_parts(lines: Iterator[list[str]], size: int) -> Iterator[tuple[int, Rows]]:
    """Yield up to `size` rows at a time with the number of their first; row 1 is the first below the header."""
    first = 1
    while part := list(islice(lines, size)):
        yield first, part
        first += len(part)


def predict_part(
    first: int, part: Rows, header: Sequence[str], places: Sequence[int], model: Predictor
) -> tuple[list[str], list[Fault]]:
    """Predict some of the rows.

    Args:
        first: the number of the first row.
        part: (m, …), as written.
        header: the names of their columns.
        places: of the features, k.
        model: predicts.

    Returns:
        y_pred (m,), as text; what is wrong with the rows, in their order.
    """
    wrong = [row for row, cells in enumerate(part) if len(cells) != len(header)]
    if wrong:
        width = f"and the header {len(header)}"
        return [], [Fault(first + row, "", "", f"has {len(part[row])} cells, {width}") for row in wrong]
    columns = [raw.to_numbers(pd.Series([cells[place] for cells in part], dtype=str)) for place in places]
    X = np.stack(columns, axis=1)  # (m, k)
    bad = np.argwhere(~np.isfinite(float32.in_float32(X))).tolist()
    cells = ((row, header[places[place]], part[row][places[place]]) for row, place in bad)
    faults = [Fault(first + row, name, text, raw.cell_fault(text)) for row, name, text in cells]
    if faults:
        return [], faults
    y_pred = model.predict(X)[:, 0]
    beyond = [Fault(first + int(row), "", "", TOO_LARGE) for row in np.flatnonzero(~np.isfinite(y_pred))]
    return y_pred.astype(str).tolist(), beyond
