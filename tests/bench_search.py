"""Whether TPE finds more than chance: its best distance to the optimum against that of as many random trials.

`python tests/bench_search.py` prints both for five seeds, on a table whose least-squares optimum is known, and checks
that every trial trains to the same bits alone.
"""

import json
import os
import statistics
import tempfile
from pathlib import Path

import sweeps

from pipeline import outs, train
from pipeline.params import Params
from pipeline.records import Record
from pipeline.search.space import Choice, Interval, Space
from pipeline.search.stage import Search
from pipeline.training.engines import Unwatched
from pipeline.training.engines.here import Here

SEEDS = range(5)
TRIALS, ROUNDS = 60, 6
SPACE: Space = {"batch_size": Choice.of([1, 2, 4, "full"]), "lr": Interval(1e-6, 1.0, log=True)}


def settings(method: str, seed: int) -> Params:
    """Return params of a search."""
    search = {"method": method, "trials": TRIALS, "rounds": ROUNDS, "metric": "excess_mse", "seed": seed}
    return sweeps.params(variants=["matrix"], sweep_seed=[1, 2], sweep_search=search)


def searched(method: str, seed: int) -> list[Record]:
    """Search."""
    search = Search(settings(method, seed), "matrix")
    search.space = SPACE
    return search.run(sweeps.table(), Unwatched(), Here(sweeps.table()), train.train)


def best(method: str, seed: int) -> float:
    """Return the best score that a search found."""
    records = searched(method, seed)
    for record in records:
        (alone,) = train.train([record.run], sweeps.table(), Unwatched(), Here(sweeps.table()))
        assert alone.curve.tobytes() == record.curve.tobytes()
        assert all(alone.tensors[name].tobytes() == record.tensors[name].tobytes() for name in alone.tensors)
    (study,) = Path(outs.TRAINED).glob("*/study.json")
    return min(float(one["score"]) for one in json.loads(study.read_text())["tried"] if one["score"] is not None)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        outs.PREPARED.parent.mkdir(parents=True)
        outs.PREPARED.write_bytes(b"bench")
        found = {method: [best(method, seed) for seed in SEEDS] for method in ("random", "tpe")}
    for method, scores in found.items():
        print(f"{method:8}{statistics.median(scores):>12.4g}   " + "  ".join(f"{score:.4g}" for score in scores))


if __name__ == "__main__":
    main()
