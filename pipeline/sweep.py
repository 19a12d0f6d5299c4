"""params -> runs -> stacks, and the fingerprints that join DVC's outs to MLflow's runs."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from pipeline import outs
from pipeline.params import BatchSize, Params
from pipeline.source import bare

PACKAGE = Path(__file__).parent
# The sources that train a run, which its fingerprint covers; they are train's deps in dvc.yaml too.
SOURCES = (
    "__init__.py",
    "sweep.py",
    "train.py",
    "training/data.py",
    "training/fit.py",
    "training/lift.py",
    "training/optimizers.py",
    "training/parameters.py",
    "variants/{variant}.py",
)
STACK_FLOATS = 2**24  # the most numbers in one minibatch of a stack: 64 MB of float32


@dataclass(frozen=True)
class Run:
    """One training of one configuration: a fit on all training rows and one for each fold."""

    variant: str
    batch_size: BatchSize
    lr: float
    seed: int
    epochs: int
    init: str
    device: str
    fingerprint: str

    @property
    def configuration(self) -> str:
        """The name shared by runs that differ only in their seed."""
        return f"{self.variant} bs={self.batch_size} lr={self.lr}"

    @property
    def name(self) -> str:
        """The run's name, for people."""
        return f"{self.configuration} seed={self.seed}"


@dataclass(frozen=True)
class Stack:
    """Fits that train together: they share variant, batch size and number of training rows."""

    fits: tuple[tuple[Run, int], ...]  # (run, split)
    rows: int

    @property
    def batch_size(self) -> int:
        """The number of rows in a minibatch."""
        size = self.fits[0][0].batch_size
        return self.rows if size == "full" else min(size, self.rows)

    @property
    def key(self) -> str:
        """A hash of everything that determines the result, equal for the same fits in the same order."""
        return fingerprint({"fits": [(run.fingerprint, split) for run, split in self.fits]})


def plan(params: Params, prepared: Path = outs.PREPARED) -> list[Run]:
    """List every run of the sweep, in the order of params.yaml."""
    data = outs.md5(prepared)
    runs = []
    for variant in params.variants:
        code = code_hash(variant)
        for batch_size, lr, seed in product(params.sweep.batch_size, params.sweep.lr, params.sweep.seed):
            values = {"variant": variant, "batch_size": batch_size, "lr": lr, "seed": seed, **params.train.model_dump()}
            runs.append(Run(**values, fingerprint=fingerprint({"data": data, "code": code, **values})))
    return runs


def fingerprint(values: dict[str, object]) -> str:
    """Hash everything that determines a result; the same values give the same 32 hexadecimal digits everywhere."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def code_hash(variant: str, package: Path = PACKAGE) -> str:
    """Hash the source that trains a variant's runs, without comments and docstrings."""
    names = [name.format(variant=variant) for name in SOURCES]
    return fingerprint({name: bare((package / name).read_text(encoding="utf-8")) for name in names})


def sweep_id(runs: Sequence[Run]) -> str:
    """Identify a sweep by its runs."""
    return fingerprint({"runs": sorted(run.fingerprint for run in runs)})[:12]


def stacks(runs: Sequence[Run], train_rows: Sequence[int], k: int) -> list[Stack]:
    """Group one variant's runs, each on every split, into stacks of at most STACK_FLOATS numbers per minibatch.

    Args:
        runs: of one variant.
        train_rows: the number of training rows of each split.
        k: the number of features.
    """
    groups: dict[tuple[BatchSize, int], list[tuple[Run, int]]] = defaultdict(list)
    for run, (split, rows) in product(runs, enumerate(train_rows)):
        groups[run.batch_size, rows].append((run, split))
    result = []
    for (_, rows), fits in groups.items():
        most = max(1, STACK_FLOATS // (Stack((fits[0],), rows).batch_size * k))
        result += [Stack(tuple(fits[start : start + most]), rows) for start in range(0, len(fits), most)]
    return result


def curve_steps(epochs: int, points: int) -> list[int]:
    """Choose the epochs of a stored curve: every 1st, 2nd, 5th, 10th, … and the last; at most `points` in all."""
    strides = (digit * 10**power for power in range(20) for digit in (1, 2, 5))
    # The multiples of stride below the last epoch, and the last one itself.
    stride = next(stride for stride in strides if (epochs - 2) // stride + 2 <= points)
    return [*range(0, epochs - 1, stride), epochs - 1]
