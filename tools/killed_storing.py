"""Kills the process that stores a sweep before each of its steps, stores again, and compares with undisturbed storing.

`python killed_storing.py FOLDER`, in a repository with prepared data; FOLDER/begin/mlflow.db is a store without runs. A
step is an SQL statement that writes, a commit, or a write, rename or removal of a file beside the store. Each storing
is a fork of this process, which has no threads.
"""

import io
import os
import re
import shutil
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bench import storing  # before numpy: it pins the kernels

# isort: split
import numpy as np
from sqlalchemy import event
from sqlalchemy.engine import Engine
from test_tables import content

from pipeline.config import params
from pipeline.runs import outs, sweep
from pipeline.runs.records import Record
from pipeline.system import repository
from pipeline.tracking import values
from pipeline.tracking.audit import audit
from pipeline.tracking.session import Session
from pipeline.tracking.store import database

NOW = 1.7e9
FILES = {"open", "os.mkdir", "os.remove", "os.rename"}  # Python's audit events
# What a repeat adds, and which process stored a run.
BY_CHANCE = ("pid", "pid_started", "confirmed", "confirmed_at", "seal_confirmed")
Stage = Callable[[list[Record]], None]


def records() -> list[Record]:
    """Make up four runs, of which the second diverged."""
    made = [storing.record(one, np.random.default_rng(0)) for one in sweep.plan(params.load())[:4]]
    cut = [replace(one, curve=one.curve[: one.run.epochs]) for one in made]
    curve = np.where(np.arange(len(cut[1].curve)) < 5, cut[1].curve, np.inf).astype(np.float32)
    cut[1] = replace(cut[1], curve=curve, diverged="all training rows, epoch 5")
    return [
        replace(one, metrics={**one.metrics, "train/mse": float(one.curve[np.isfinite(one.curve)][-1])}) for one in cut
    ]


def opened(everything: list[Record]) -> Session:
    return Session(params.load(), [one.run for one in everything], os.getpid(), clock=lambda: NOW)


def train(everything: list[Record]) -> None:
    """Store what the stage train stores: two stacks, and a run that contradicts another."""
    first, diverged, third, _ = everything
    stage = opened(everything)
    stage.start([first.run, diverged.run])
    stage.grow({first.run.fingerprint: {0: float(first.curve[0]), 1: float(first.curve[1])}})
    stage.finish([first, diverged])
    stage.start([third.run])
    stage.finish([third])
    stage.finish([replace(third, curve=np.nextafter(third.curve, np.float32(np.inf)))])
    stage.close("FINISHED", "")


def evaluate(everything: list[Record]) -> None:
    """Store the evaluation, and with it the fourth run, which is not stored yet."""
    stage = opened(everything)
    stage.measure(everything)
    stage.conclude([Path("params.yaml")], "")
    stage.close("FINISHED", "")
    if findings := audit(params.load().track.experiment, everything).findings:
        raise AssertionError(findings)


class Steps:
    """Counts the steps of this process, and ends it before the last of them."""

    def __init__(self, folder: Path, last: int) -> None:
        self.folder, self.last, self.count, self.writes = str(folder), last, 0, False
        event.listen(Engine, "before_cursor_execute", self.execute)
        event.listen(Engine, "commit", self.commit)
        event.listen(Engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))  # no power fails here
        sys.addaudithook(self.touch)

    def execute(self, _: object, __: object, statement: str, *___: object) -> None:
        if not statement.startswith(("SELECT", "PRAGMA")):
            self.writes = True
            self.take()

    def commit(self, _: object) -> None:
        if self.writes:
            self.writes = False
            self.take()

    def touch(self, name: str, about: tuple[Any, ...]) -> None:
        reads = name == "open" and not about[2] & (os.O_WRONLY | os.O_RDWR)
        if name in FILES and not reads and str(about[0]).startswith(self.folder) and ".lock" not in str(about[0]):
            self.take()

    def take(self) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(act: Callable[[], int]) -> int:
    """Call a function in a fork; return its number, or the negative number of the signal that ended it."""
    assert threading.active_count() == 1
    theirs, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with redirect_stderr(io.StringIO()):  # that a run contradicts another
                os.write(ours, str(act()).encode())
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(ours)
    with os.fdopen(theirs) as told:
        number = told.read()
    _, status = os.waitpid(pid, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else int(number)


def stored(folder: Path, stage: Stage, everything: list[Record], last: int = 0) -> int:
    """Store in a fork, which is killed before the step `last`, if given; return the number of its steps."""

    def act() -> int:
        steps = Steps(folder, last)
        stage(everything)
        return steps.count

    return forked(act)


def place(begin: Path, folder: Path) -> None:
    """Copy a store to the place where stages store."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(begin, folder)


def kept(folder: Path) -> dict[str, object]:
    """Read all that is stored, except values that differ by chance."""
    tables, files = content(folder / "mlflow.db")
    tables["tags"] = [row for row in tables["tags"] if not any(f"{key}'" in row for key in BY_CHANCE)]
    # MLflow's client cannot take back the end that a killed run got; the seals, which hold it, are checked.
    tables["runs"] = [re.sub("'end_time': [^,]+", "", row) for row in tables["runs"]]
    tables.pop("sqlite_stat1", None)
    folders = len(list((folder / "mlartifacts").iterdir()))
    return {**tables, "files": files, "folders": folders, "beside": sorted(path.name for path in folder.iterdir())}


def differing(one: object, other: object) -> str:
    """Return how two parts of what is stored differ."""
    if isinstance(one, list) and isinstance(other, list):
        return f"{[row for row in one if row not in other]} instead of {[row for row in other if row not in one]}"
    return f"{one} instead of {other}"


def faults(begin: Path, folder: Path, stage: Stage, everything: list[Record]) -> Iterator[str]:
    """List what is wrong after a kill before each step of a stage; leave the store of an undisturbed run behind."""
    place(begin, folder)
    count, recovered = stored(folder, stage, everything), set[str]()
    undisturbed = kept(folder)
    for last in range(1, count + 1):
        place(begin, folder)
        if stored(folder, stage, everything, last) != -signal.SIGKILL:
            yield f"{stage.__name__}: step {last} was not reached"
        if (left := repr(kept(folder))) in recovered:  # a kill anywhere in a transaction leaves what was there before
            continue
        recovered.add(left)
        stored(folder, stage, everything)
        for name, found in kept(folder).items():
            if found != undisturbed[name]:
                yield f"{stage.__name__}, step {last} of {count}: {name}: {differing(found, undisturbed[name])}"
    yield f"{stage.__name__}: {count} steps"


def main() -> None:
    """Kill both stages."""
    top = Path(sys.argv[1]).resolve()
    folder, begin, trained = top / "now", top / "begin", top / "trained"
    os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", "DVC_ROOT": str(folder)}
    for module, name in ((params, "load"), (repository, "git"), (repository, "changes")):
        setattr(module, name, cache(getattr(module, name)))
    everything = records()
    values.source_tags()  # once for all forks, as is what follows: both start git
    repository.changes()
    time.time = lambda: NOW
    values.now = lambda: "2026-01-01T00:00:00+00:00"
    outs.summary = dict  # nothing was evaluated here
    database.WRITTEN_AT_ONCE = 2  # so that a stack takes several statements
    place(begin, folder)
    for stage in (train, evaluate):  # a store with the experiment, and its saved views, but without runs
        stored(folder, stage, everything)
    shutil.rmtree(folder / "mlartifacts")
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        for table in (*storing.TABLES, "datasets"):
            connection.execute(f"DELETE FROM {table}")
        connection.commit()
    (folder / "mlartifacts").mkdir()
    place(folder, begin)
    print(*faults(begin, folder, train, everything), sep="\n")
    place(begin, folder)
    stored(folder, train, everything)
    place(folder, trained)
    print(*faults(trained, folder, evaluate, everything), sep="\n")


if __name__ == "__main__":
    main()
