"""Ends the runs of processes that are gone, which would say RUNNING for ever."""

import time
from collections.abc import Sequence

from pipeline.runs.records import CURVE
from pipeline.system import processes
from pipeline.tracking.runs import KILLED, Point, StoredRun
from pipeline.tracking.store import backend
from pipeline.tracking.store.backend import Change
from pipeline.tracking.store.store import Store, answering
from pipeline.tracking.values import milliseconds


@answering()
def end_the_dead(experiment: str) -> list[str]:
    """End runs that say RUNNING though their process is gone; return their names.

    Raises:
        InputError: the store fails.
    """
    store = Store.look(experiment)
    return end_dead_runs(store) if store else []


def end_dead_runs(store: Store) -> list[str]:
    """End runs whose process is gone as KILLED, at its last sign of life; return their names."""
    if not store.owned():
        return []
    with store.lock:  # others may have ended them meanwhile
        dead = [run for run in store.owned() if not processes.is_alive(run.tags, time.time())]
        signs = store.histories(dead, CURVE)
        store.write([ended(run, signs[run.run_id]) for run in dead])
    return [f"{run.name} ({run.run_id})" for run in dead]


def ended(run: StoredRun, curve: Sequence[Point]) -> Change:
    """Return how to end a run whose process is gone."""
    signs = [run.start, milliseconds(float(run.tags["heartbeat"])), *(point.at for point in curve)]
    owner = f"process {run.tags['pid']} on {run.tags['host']}"
    return backend.stopped(run, KILLED, max(signs), f"{owner} is gone and did not end this run")
