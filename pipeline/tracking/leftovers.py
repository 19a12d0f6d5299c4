"""What processes left behind in the store: runs RUNNING for ever, and ghosts of requests whose answer was lost."""

import time
from collections.abc import Collection, Mapping

from pipeline import lifetime
from pipeline.records import CURVE
from pipeline.tracking.runs import KILLED, RUNNING
from pipeline.tracking.store import Store, answering
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
    dead = []
    for run in store.owned():
        with store.lock:
            run = store.run(run.run_id)  # noqa: PLW2901 - it may have ended meanwhile
            if run.status != RUNNING or lifetime.is_alive(run.tags, time.time()):
                continue
            signs = [point.at for point in store.history(run, CURVE)]
            signs += [run.start, milliseconds(float(run.tags["heartbeat"]))]
            owner = f"process {run.tags['pid']} on {run.tags['host']}"
            store.stop(run, KILLED, max(signs), f"{owner} is gone and did not end this run")
            dead.append(f"{run.name} ({run.run_id})")
    return dead


def delete_ghosts(store: Store, owner: Mapping[str, str], known: Collection[str]) -> None:
    """Delete a process's runs that it does not know: a request whose answer was lost may be carried out late."""
    for run in store.running(owner):
        if run.run_id not in known:
            store.client.delete_run(run.run_id)
