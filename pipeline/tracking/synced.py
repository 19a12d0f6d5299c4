"""Whether a SQLite store is as it was when it held all of a sweep: to read 10,000 runs again takes `sync` 1.6 s.

A note names its files as they were then (inode, size and time of the last write, as make and DVC compare files), and
the outs whose runs it held. Other stores are read every time.
"""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from pipeline.config.params import Params
from pipeline.runs import outs
from pipeline.system import repository
from pipeline.system.files import file_md5
from pipeline.tracking import seals
from pipeline.tracking.store import location

NOTE = Path(".dvc/tmp/synced")
FOLD = "PRAGMA wal_checkpoint(TRUNCATE)"  # writes the -wal into the file, as whoever looks at the store next would


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
    return seals.digest([uri, files, params.track.experiment, sweep, list(map(file_md5, made))])


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
