"""Stores what the store lacks of an evaluated sweep, and ends what stale processes left in it.

To read 10,000 runs takes 1.6 s: a note names a SQLite store's files as they were when all of a sweep was in it (inode,
size and time of the last write, as make and DVC compare files), and the outs whose runs it held. Other stores are read
every time.
"""

import json
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from pipeline.config.params import Params
from pipeline.runs import outs
from pipeline.runs.records import Record
from pipeline.runs.sweep import specification, sweep_id
from pipeline.system import repository
from pipeline.system.files import file_md5, md5_of
from pipeline.tracking import models, queries, sweep_run
from pipeline.tracking.comparison import Comparison
from pipeline.tracking.open_run import end_dead_runs
from pipeline.tracking.pages import views
from pipeline.tracking.runs import FINISHED
from pipeline.tracking.store import location
from pipeline.tracking.store.store import Store, answering
from pipeline.tracking.values import data_label, now

NOTE = Path(".dvc/tmp/synced")
FOLD = "PRAGMA wal_checkpoint(TRUNCATE)"  # writes the -wal into the file, as whoever looks at the store next would


def sync(
    params: Params, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str, summary: Mapping[str, Any]
) -> list[str]:
    """Store what the store lacks of an evaluated sweep, and register its champion; say what was done, line by line.

    Args:
        params: params.yaml.
        evaluated: the sweep's runs.
        artifacts: the evaluation's files.
        champion: the best configuration, empty if there is none.
        summary: of the prepared data, summary.json.

    Raises:
        InputError: the store fails.
    """
    experiment, sweep = params.track.experiment, _id(params, evaluated)
    end_stale(experiment)
    found = state(params, sweep)  # before the store is read, or what changes meanwhile would go unseen
    lacking = 0 if is_noted(found) else store_lacking(params, evaluated, artifacts, champion)
    note(found)
    refresh_views(experiment, summary, params.evaluate.metric)
    registered = models.update(params, evaluated, champion)
    stored = f"{len(evaluated)} runs, " + (f"{lacking} of them stored now" if lacking else "all stored")
    return list(filter(None, [stored, registered, *queries.links_of(experiment, sweep)]))


@answering()
def end_stale(experiment: str) -> list[str]:
    """End runs that say RUNNING though their process is gone; return their names.

    Raises:
        InputError: the store fails.
    """
    store = Store.look(experiment)
    return end_dead_runs(store) if store else []


@answering()
def refresh_views(experiment: str, summary: Mapping[str, Any], metric: str) -> None:
    """Write the views of a stored experiment, for the data of a workspace.

    Args:
        experiment: MLflow's; nothing is written if the store has none.
        summary: of the prepared data, summary.json.
        metric: that chooses the champion.

    Raises:
        InputError: the store fails.
    """
    if store := Store.look(experiment):
        views.update(store, data_label(summary), metric, time.time())


@answering()
def store_lacking(params: Params, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> int:
    """Store what the store lacks of an evaluated sweep; return how many runs it lacked or had in part.

    Raises:
        InputError: the store fails.
    """
    store = Store.look(params.track.experiment)
    lacking = Comparison(store).count_lacking(evaluated) if store else len(evaluated)
    sweep = _id(params, evaluated)
    if store is None or lacking or not sweep_run.is_stored(store, sweep, outs.nested()):
        print("\n".join(restore(params, evaluated, artifacts, champion)))
    return lacking


def restore(params: Params, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> list[str]:
    """Store an evaluated sweep from its outs; return what a person should know of it, line by line."""
    from pipeline.tracking.session import Session  # noqa: PLC0415 - stores, which seldom is needed

    session = Session(params, [record.run for record in evaluated], os.getpid(), now())
    session.measure(evaluated)
    session.conclude(artifacts, champion)
    session.close(FINISHED, "")
    return session.news


def _id(params: Params, evaluated: Sequence[Record]) -> str:
    return sweep_id([record.run for record in evaluated], specification(params))


def state(params: Params, sweep: str) -> str:
    """Describe the store's files, and the outs of an evaluated sweep that they may hold; empty if it is no file.

    Take it before the store is read: what is written meanwhile then belongs to another state.
    """
    uri = location.address()
    file = repository.sqlite_file(uri)
    if file is None or not file.exists():
        return ""
    with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as connection:  # if somebody writes, the -wal stays
        connection.execute(FOLD)
    stats = [path.stat() for path in (file, Path(f"{file}-wal")) if path.exists()]
    files = [(one.st_ino, one.st_size, one.st_mtime_ns) for one in stats if one.st_size]
    made = [outs.EVALUATED, outs.METRICS, *(outs.TRAINED / name / "weights.safetensors" for name in params.variants)]
    return json.dumps([md5_of(uri.encode()), files, params.track.experiment, sweep, list(map(file_md5, made))])


def is_noted(found: str) -> bool:
    """Tell whether nothing was lacking in this state."""
    with suppress(OSError):
        return bool(found) and NOTE.read_bytes() == found.encode()
    return False


def note(found: str) -> None:
    """Note that nothing was lacking in this state; where nothing can be written, the next `sync` reads all again."""
    if found:
        with suppress(OSError):
            NOTE.parent.mkdir(parents=True, exist_ok=True)
            NOTE.write_text(found, encoding="utf-8")
