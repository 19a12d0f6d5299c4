"""Trains stacks in this process and in workers, which are forked before there are threads; prints what differs.

`python two_engines.py [WORD]`, with a word: nothing; `one` or `all` of the workers are killed when the first curve has
grown; or the model is `broken`.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.system import kernels  # before torch: it pins the kernels

# isort: split
import torch
from sweeps import unscaled

from pipeline import variants
from pipeline.config.axes import BatchSize
from pipeline.execution import checkpoints
from pipeline.execution.checkpoints import Checkpoints
from pipeline.execution.engine import Here
from pipeline.execution.listener import Listeners
from pipeline.execution.processes import Workers
from pipeline.execution.trainer import Trainer
from pipeline.runs.records import Array, Record
from pipeline.runs.run import Run
from pipeline.table.prepared import Prepared
from pipeline.training.stacks import Stack

SIZES: tuple[BatchSize, ...] = (1, 2, "full")
STACKS = 4  # of minibatches of all rows, 6 and 5 are apart
assert not kernels.LOADED


class Seen(Listeners):
    """Keeps what it is notified of, and kills workers when a curve first grows."""

    def __init__(self, engine: Workers, doomed: int) -> None:
        super().__init__()
        self.engine, self.doomed = engine, doomed
        self.started: list[Stack] = []
        self.grown: dict[str, tuple[int, Array]] = {}
        self.finished: list[Record] = []

    def start(self, stack: Stack) -> None:
        self.started.append(stack)

    def follow(self, stack: Stack, curves: Array, epoch: int) -> None:
        for worker in self.engine.workers[: self.doomed]:
            os.kill(worker.pid, signal.SIGKILL)
        self.doomed = 0
        for fingerprint, r in stack.places.items():
            self.grown[fingerprint] = epoch, curves[r, :epoch].copy()

    def finish(self, records: Sequence[Record]) -> None:
        self.finished.extend(records)


def table() -> Prepared:
    chance = torch.Generator().manual_seed(0)
    X, y = torch.randn(6, 3, generator=chance), torch.randn(6, 1, generator=chance)
    kept = torch.cat([torch.ones(1, 6), 1 - torch.eye(6)]).bool()
    return unscaled(X, y, kept)


def runs(epochs: int) -> list[Run]:
    grid = [(size, seed) for size in SIZES for seed in (1, 2)]
    every = [Run("matrix", size, 0.01, seed, epochs, "default", "cpu", f"{size} {seed}") for size, seed in grid]
    return [replace(one, patience=5, min_delta=1e-3 * one.seed) for one in every]  # some leave early


def bits(record: Record) -> list[object]:
    tensors = {name: tensor.tobytes() for name, tensor in record.tensors.items()}
    path = None if record.path is None else record.path.tobytes()
    return [record.run, record.diverged, record.curve.tobytes(), tensors, path]


def faults(word: str, folder: Path) -> Iterator[str]:
    """List how the workers' results differ from this process's."""
    planned, prepared, saved = runs(150), table(), Checkpoints(folder)
    every = prepared.with_pairs(standardize=False)
    with Workers(2, every, saved) as engine:
        seen = Seen(engine, {"one": 1, "all": 2}.get(word, 0))
        made = Trainer(prepared, engine, seen).train(planned)
        further = Trainer(every, engine).nest(made, 7)
        left = len(engine.workers)
        pids = [worker.pid for worker in engine.workers]
    yield from unclear(saved)
    if left != {"one": 1, "all": 0}.get(word, 2):
        yield f"{left} workers are left"
    if any(Path(f"/proc/{pid}").exists() for pid in pids):
        yield "a worker has outlived its engine"
    here = Trainer(prepared, Here(every)).train(planned)
    if [one.inner["W"].tobytes() for one in further] != [
        one.inner["W"].tobytes() for one in Trainer(every, Here(every)).nest(here, 7)
    ]:
        yield "other bits than here without two folds"
    if [bits(one) for one in made] != [bits(one) for one in here]:
        yield "other bits than here"
    if sorted(one.run.fingerprint for one in seen.finished) != sorted(one.fingerprint for one in planned):
        yield "a run did not finish once"
    if len(set(seen.started)) != STACKS or (len(seen.started) == STACKS) != (not word):
        yield f"{len(seen.started)} starts of {len(set(seen.started))} stacks"
    curves = {one.run.fingerprint: one.curve for one in here}
    for fingerprint, (epoch, curve) in seen.grown.items():
        if curve.tobytes() != curves[fingerprint][:epoch].tobytes():
            yield f"{fingerprint}: another curve was followed"
    if seen.grown.keys() != curves.keys():
        yield "not every curve was followed"


def unclear(saved: Checkpoints) -> Iterator[str]:
    """List what is wrong with the checkpoints, which a stage deletes at the end."""
    if not any(saved.folder.iterdir()):
        yield "nothing was saved"
    saved.clear()
    if any(saved.folder.iterdir()):
        yield "a checkpoint is left"


def broken(*_: object) -> variants.Model:
    raise ValueError("on\npurpose")


def main(words: Sequence[str]) -> None:
    word = words[0] if words else ""
    if word == "broken":
        variants.make = broken  # type: ignore[assignment]
    checkpoints.SECONDS = 0.02
    with TemporaryDirectory() as folder:
        print(*faults(word, Path(folder)), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
