"""A run's record, as DVC's outs hold it: written by train, completed by evaluate, copied into MLflow."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline import metrics
from pipeline.errors import InputError
from pipeline.runs import outs
from pipeline.runs.names import FIELDS
from pipeline.runs.run import Run, curve_steps
from pipeline.system.files import read_csv, replacing, write_csv

Array = NDArray[np.float32]
CURVE = metrics.CURVE
FORMAT = 2  # of a run in MLflow; format 1 held linear models only, and no format number
BEHIND = "behind"  # how `left` begins for a run that halving dropped
CURVES_FILE, WEIGHTS_FILE, PATHS_FILE = "curves.safetensors", "weights.safetensors", "paths.safetensors"
NESTED_FILE = "nested.safetensors"


@dataclass(frozen=True)
class Record:
    """One run and its results; a variant's files hold those of its R runs, stacked.

    diverged: where and in which epoch; empty if it did not. left: which fits left their stack, why and when. curve:
    (epochs,), float32, the mean squared error of each epoch; NaN from where the run diverged or left on.
    tensors: all float32: the parameters of each split's fit, by name, each (S, …): W (S, k, 1) and b (S, 1) for a
    linear model; for each, grad_NAME (…), autograd's gradient of the first split's loss there; mean (S, k) and scale
    (S, k), which standardize X.
    metrics: from the evaluation; empty before it. path: (T, P), float32, the parameters of the first split's fit, in
    their order, after each epoch of curve_steps(epochs, PATH_POINTS); kept for the sweep's first seed only.
    inner: the parameters of nested cross-validation's fits by name, each (P, …), in the order of the pairs of folds
    that they leave out, NaN where a fit diverged; empty if there are none.
    """

    run: Run
    diverged: str
    curve: Array
    tensors: Mapping[str, Array]
    metrics: Mapping[str, float] = field(default_factory=dict)
    path: Array | None = None
    left: str = ""
    inner: Mapping[str, Array] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The last epoch of the curve that is known, or -1."""
        known = np.flatnonzero(np.isfinite(self.curve))
        return int(known[-1]) if len(known) else -1

    def steps(self, points: int) -> list[int]:
        """Choose the epochs of the curve to store, about `points`; with the last one of a run that left early."""
        steps = curve_steps(len(self.curve), points)
        return sorted({*steps, self.last}) if self.left and self.last >= 0 else steps

    @property
    def held(self) -> Array:
        """The curve (epochs,), with its last loss from where the run left on, as it keeps its parameters."""
        if not self.left or self.diverged or self.last < 0:
            return self.curve
        return np.where(np.arange(len(self.curve)) > self.last, self.curve[self.last], self.curve)

    @property
    def weights(self) -> NDArray[np.float64]:
        """The parameters (P,) of the fit on all training rows."""
        own = [name for name in self.tensors if f"grad_{name}" in self.tensors]
        return np.concatenate([self.tensors[name][0].flatten() for name in own]).astype(np.float64)

    @property
    def is_whole(self) -> bool:
        """Whether it is a run that may be compared with others: it neither diverged nor fell behind."""
        return not self.diverged and not self.left.startswith(BEHIND)


def fit_name(split: int) -> str:
    """Name a run's fit on a split, for people."""
    return f"fold {split}" if split else "all training rows"


def write(folder: Path, records: Sequence[Record]) -> None:
    """Write one variant's table of runs, curves and weights, in the order of the records, and paths by fingerprint.

    Either all of them have nested cross-validation's fits, or none has.
    """
    longest = max(len(record.curve) for record in records)
    padded = [np.pad(one.curve, (0, longest - len(one.curve)), constant_values=np.nan) for one in records]
    files = {
        CURVES_FILE: {CURVE: np.stack(padded)},
        WEIGHTS_FILE: _stacked([record.tensors for record in records]),
        PATHS_FILE: {one.run.fingerprint: one.path for one in records if one.path is not None},
        NESTED_FILE: _stacked([record.inner for record in records]),
    }
    for name, tensors in files.items():
        if name == NESTED_FILE and not tensors:
            (folder / name).unlink(missing_ok=True)  # a stage that a person starts finds the earlier outs
            continue
        with replacing(folder / name) as temporary:
            save_file(tensors, temporary)
    rows = [{"name": one.run.name, **vars(one.run), "diverged": one.diverged, "left": one.left} for one in records]
    write_csv(folder / "runs.csv", rows, list(rows[0]))


def _stacked(each: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.stack([tensors[name] for tensors in each]) for name in each[0]}


def read(folder: Path) -> list[Record]:
    """Read one variant's records, without metrics; outs of earlier versions have no paths."""
    rows = read_csv(folder / "runs.csv")  # first, as safetensors' errors do not name a missing file
    curves, tensors = load_file(folder / CURVES_FILE)[CURVE], load_file(folder / WEIGHTS_FILE)
    paths, inner = (load_file(path) if path.exists() else {} for path in (folder / PATHS_FILE, folder / NESTED_FILE))
    records = []
    for r, row in enumerate(rows):
        run, path = _run(row), paths.get(row["fingerprint"])
        own, further = ({name: tensor[r] for name, tensor in each.items()} for each in (tensors, inner))
        curve, left = curves[r, : run.epochs], row.get("left", "")
        records.append(Record(run, row["diverged"], curve, own, path=path, left=left, inner=further))
    return records


def read_evaluated(variants: Sequence[str]) -> list[Record]:
    """Read the records of all variants, with the metrics that evaluate computed.

    Raises:
        FileNotFoundError: a stage has not written its outs.
        InputError: the outs are damaged.
    """
    try:
        evaluated = {
            row.pop("fingerprint"): {key: float(value) for key, value in row.items() if key != "name" and value}
            for row in read_csv(outs.EVALUATED)
        }
        trained = [record for variant in variants for record in read(outs.TRAINED / variant)]
    except (ValueError, KeyError, IndexError, TypeError, csv.Error, SafetensorError) as error:
        folders = f"{outs.TRAINED} or {outs.EVALUATED}"
        raise InputError(f"{folders}: is damaged: {error}; see pipeline doctor --deep") from error
    return [replace(record, metrics=evaluated.get(record.run.fingerprint, {})) for record in trained]


def _run(row: Mapping[str, str]) -> Run:
    # Outs of earlier versions lack the axes that have come since.
    given = {field: read(row[field]) for field, read in FIELDS.items() if row.get(field)}
    return Run(**given, fingerprint=row["fingerprint"])
