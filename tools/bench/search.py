"""Measures whether TPE beats chance: its best distance to the optimum against that of as many random trials.

The table's least-squares optimum is known. Every trial must train to the same bits alone.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from statistics import median

import sweeps  # before torch: pipeline pins its kernels

# isort: split
from bench.rows import Row
from pipeline.config.params import Params
from pipeline.execution.engine import Here
from pipeline.execution.trainer import Trainer
from pipeline.runs import outs
from pipeline.runs.records import Record
from pipeline.search.stage import Searcher

SEEDS = range(5)
TRIALS, ROUNDS = 60, 6
AXES = {"sweep_batch_size": [1, 2, 4, "full"], "sweep_lr": [{"from": 1e-6, "to": 1.0, "scale": "log"}]}


def settings(method: str, seed: int) -> Params:
    """Return params of a search."""
    search = {"method": method, "trials": TRIALS, "rounds": ROUNDS, "metric": "excess_mse", "seed": seed}
    return sweeps.params(variants=["matrix"], sweep_seed=[1, 2], sweep_search=search, **AXES)


def trainer() -> Trainer:
    """Return what trains, in this process."""
    return Trainer(sweeps.table(), Here(sweeps.table()))


def searched(method: str, seed: int) -> list[Record]:
    """Search; return the records."""
    return Searcher(settings(method, seed), "matrix").run(trainer())


def best(method: str, seed: int) -> float:
    """Return the best score that a search found."""
    records = searched(method, seed)
    for record in records:
        (alone,) = trainer().train([record.run])
        assert alone.curve.tobytes() == record.curve.tobytes()
        assert all(alone.tensors[name].tobytes() == record.tensors[name].tobytes() for name in alone.tensors)
    (study,) = Path(outs.TRAINED).glob("*/study.json")
    return min(float(one["score"]) for one in json.loads(study.read_text())["tried"] if one["score"] is not None)


def rows() -> Iterator[Row]:
    """Measure both, with five seeds each."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        outs.PREPARED.parent.mkdir(parents=True)
        outs.PREPARED.write_bytes(b"bench")
        found = {method: median(best(method, seed) for seed in SEEDS) for method in ("random", "tpe")}
    of = f"best excess_mse of {TRIALS} trials (median of {len(SEEDS)} seeds), by"
    yield Row(f"{of} random", found["random"], "")
    yield Row(f"{of} TPE", found["tpe"], "", most=found["random"])
