"""A run's record, as DVC's outs hold it: written by train, completed by evaluate, copied into MLflow."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline import outs
from pipeline.params import METRICS, InputError
from pipeline.sweep import FIELDS, Run

Array = NDArray[np.float32]
CURVE = "train/mse"
FORMAT = 2  # of a run in MLflow; format 1 held linear models only, and no format number
BEHIND = "behind"  # how `left` begins for a run that halving dropped
RUN_METRICS = (*METRICS, "grad_error")  # what evaluate computes for each run
FINAL = ("final/mse", "final/mae", "final/r2")  # and for the champion alone, on rows that nothing else saw


@dataclass(frozen=True)
class Record:
    """One run and its results; a variant's files hold those of its R runs, stacked.

    diverged: where and in which epoch; empty if it did not. curve: (epochs,), float32, the training loss of each epoch.
    left: why and when it ended before its last epoch; empty if it did not.
    tensors: all float32: the parameters of each split's fit, by name, each (S, …): W (S, k, 1) and b (S, 1) for a
    linear model; for each, grad_NAME (…), autograd's gradient of the first split's loss there; mean (S, k) and scale
    (S, k), which standardize X.
    metrics: from the evaluation; empty before it. path: (T, P), float32, the parameters of the first split's fit, in
    their order, after each epoch of curve_steps(epochs, PATH_POINTS); kept for the sweep's first seed only.
    """

    run: Run
    diverged: str
    curve: Array
    tensors: Mapping[str, Array]
    metrics: Mapping[str, float] = field(default_factory=dict)
    path: Array | None = None
    left: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it is a run that may be compared with others: it neither diverged nor fell behind."""
        return not self.diverged and not self.left.startswith(BEHIND)


def write(folder: Path, records: Sequence[Record]) -> None:
    """Write one variant's table of runs, curves and weights, in the order of the records, and paths by fingerprint."""
    with outs.replacing(folder / "curves.safetensors") as temporary:
        save_file({CURVE: np.stack([record.curve for record in records])}, temporary)
    with outs.replacing(folder / "weights.safetensors") as temporary:
        names = records[0].tensors
        save_file({name: np.stack([record.tensors[name] for record in records]) for name in names}, temporary)
    with outs.replacing(folder / "paths.safetensors") as temporary:
        save_file({one.run.fingerprint: one.path for one in records if one.path is not None}, temporary)
    rows = [
        {"name": record.run.name, **asdict(record.run), "diverged": record.diverged, "left": record.left}
        for record in records
    ]
    outs.write_csv(folder / "runs.csv", rows, list(rows[0]))


def read(folder: Path) -> list[Record]:
    """Read one variant's records, without metrics; outs of earlier versions have no paths."""
    curves = load_file(folder / "curves.safetensors")[CURVE]
    tensors = load_file(folder / "weights.safetensors")
    kept = folder / "paths.safetensors"
    paths = load_file(kept) if kept.exists() else {}
    records = []
    for r, row in enumerate(outs.read_csv(folder / "runs.csv")):
        own = {name: tensor[r] for name, tensor in tensors.items()}
        records.append(
            Record(
                _run(row), row["diverged"], curves[r], own, path=paths.get(row["fingerprint"]), left=row.get("left", "")
            )
        )
    return records


def read_evaluated(variants: Sequence[str]) -> list[Record]:
    """Read the records of all variants, with the metrics that evaluate computed.

    Raises:
        FileNotFoundError: a stage has not written its outs.
        InputError: the outs are damaged.
    """
    try:
        metrics = {
            row.pop("fingerprint"): {key: float(value) for key, value in row.items() if key != "name" and value}
            for row in outs.read_csv(outs.EVALUATED)
        }
        trained = [record for variant in variants for record in read(outs.TRAINED / variant)]
    except (ValueError, KeyError, IndexError, TypeError, csv.Error, SafetensorError) as error:
        folders = f"{outs.TRAINED} or {outs.EVALUATED}"
        raise InputError(f"{folders}: is damaged: {error}; see pipeline doctor --deep") from error
    return [replace(record, metrics=metrics.get(record.run.fingerprint, {})) for record in trained]


def _run(row: Mapping[str, str]) -> Run:
    return Run(**{field: read(row[field]) for field, read in FIELDS.items()}, fingerprint=row["fingerprint"])
