"""Alter records in a copy of a store at random, and reproduce each: python tools/fuzz_records.py --count 200.

Each alteration depends only on its seed. A record is refused, reported as different, or the same; a traceback and a
hang count as faults. No stage runs: what they would make is read from the repository's outs.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import copy_checkout, default_store, environment, run, search, shorten
from safetensors.numpy import load_file

from pipeline.commands import reproduce
from pipeline.commands.verdict import Answer
from pipeline.errors import InputError
from pipeline.runs import outs, records, rounding
from pipeline.tracking.validation import OPTIONAL, REQUIRED

HANG_SECONDS = 120  # which no record takes, even on a slow machine
READ = {"params.yaml", "summary.json", "weights.safetensors"}
TAGS = [*REQUIRED, *OPTIONAL, "role"]
TEXTS: list[object] = [
    *(
        "",
        " ",
        "../../../victim.txt",
        "/dev/zero",
        "a" * 6000,
        "é\u202e\x1b[2J",
        "nan",
        "1e999",
        "-1",
        "0" * 32,
        "f" * 40,
    ),
    *("0" * 12, "0" * 12 + ".patch", "[]", "{}", "null", "' OR 1=1 --", "--help", "a\nb", "full", "2.13.0"),
    *(None, b"\xff\xfe", 5, 0.5),
]
NUMBERS: list[object] = [0.0, -1.0, 1e300, "text", b"\xff", 7]
STEPS: list[object] = [-1, 10**12, 5, 2**63 - 1, "text"]
POINTS: dict[str, list[object]] = {"value": NUMBERS, "step": STEPS, "is_nan": [1]}
COLUMNS: dict[str, list[object]] = {
    "status": ["RUNNING", "KILLED", "FAILED", "", "odd"],
    "lifecycle_stage": ["deleted", "odd"],
    "start_time": [None, -1, "text"],
    "name": ["", None],
    "experiment_id": [999],
    "artifact_uri": ["", None, "file:///dev", "odd://host/folder", "../../.."],
}
BOMB = "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" if i else "a0: &a0 {b: 1}" for i in range(9))
CONTENTS = [
    *(b"", b"\xff\xfe\x00", b"[]", b"{}", b"null", b"5", b"[" * 5000, b'{"a": ' * 5000, b"\x00" * 2**19, BOMB.encode()),
    *(b"&a [*a]", b"!!bool maybe", b"!!python/object:os.system x", b"9" * 5000, b"a: !!timestamp x", b"{a: b: c}"),
    *(b"\xff" * 8 + b"{}", b"\x02" + b"\x00" * 7 + b"{}"),
]


class Hang(BaseException):
    """Something took longer than HANG_SECONDS."""


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise Hang if the body takes longer."""

    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def copy_records(repository: Path, folder: Path) -> str:
    """Copy a repository's store with its artifacts, for a test to damage; return its URI."""
    shutil.copytree(repository / "mlartifacts", folder / "mlartifacts")
    with sqlite3.connect(repository / "mlflow.db") as original, sqlite3.connect(folder / "mlflow.db") as copy:
        original.backup(copy)
        for name, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            copy.execute(f"UPDATE {name} SET {column} = replace({column}, ?, ?)", [str(repository), str(folder)])
    return f"sqlite:///{folder / 'mlflow.db'}"


def alter_row(chance: random.Random, table: sqlite3.Connection, run_id: str, parent: str) -> str:
    """Change or delete one of a run's values in the store; return which, in words."""
    kind = chance.choice(["tags", "tags", "tags", "params", "metrics", "latest_metrics", "runs", "parent"])
    if kind == "runs":
        column = chance.choice(list(COLUMNS))
        value = chance.choice(COLUMNS[column])
        with contextlib.suppress(sqlite3.IntegrityError):
            table.execute(f"UPDATE runs SET {column} = ? WHERE run_uuid = ?", [value, run_id])
        return f"runs.{column} = {value!r}"
    owner = parent if kind == "parent" else run_id
    kind = "tags" if kind == "parent" else kind
    keys = [row[0] for row in table.execute(f"SELECT DISTINCT key FROM {kind} WHERE run_uuid = ?", [owner])]
    key = chance.choice([*TAGS, *keys] if kind == "tags" else keys)
    key = chance.choice(["role", "sweep"]) if owner == parent else key
    where, own = "WHERE run_uuid = ? AND key = ?", [owner, key]
    if chance.random() < 0.2:
        table.execute(f"DELETE FROM {kind} {where}", own)
        return f"{kind} {key} deleted"
    column = "value"
    value = chance.choice(TEXTS if kind in {"tags", "params"} else NUMBERS)
    if kind == "metrics":
        column = chance.choice(["value", "step", "is_nan"])
        value = chance.choice(POINTS[column])
        where += f" AND step = {chance.choice([0, 7, 19])}"
    with contextlib.suppress(sqlite3.IntegrityError):
        changed = table.execute(f"UPDATE {kind} SET {column} = ? {where}", [value, *own]).rowcount
        if not changed and kind == "tags":
            table.execute("INSERT INTO tags (value, run_uuid, key) VALUES (?, ?, ?)", [value, *own])
    return f"{kind} {key}.{column} = {str(value)[:40]!r}"


def alter_artifact(chance: random.Random, folder: Path) -> str:
    """Change, remove or replace one of a record's files; return which, in words."""
    file = chance.choice([path for path in sorted(folder.iterdir()) if path.name in READ])
    before = file.read_bytes()
    file.unlink()
    how = chance.choice(["gone", "pipe", "folder", "device", "bytes", "flipped", "cut", "swapped"])
    if how == "pipe":
        os.mkfifo(file)
    elif how == "folder":
        file.mkdir()
    elif how == "device":
        file.symlink_to("/dev/zero")
    elif how == "bytes":
        file.write_bytes(chance.choice(CONTENTS))
    elif how == "flipped":
        place = chance.randrange(len(before))
        file.write_bytes(before[:place] + bytes([before[place] ^ (1 << chance.randrange(8))]) + before[place + 1 :])
    elif how == "cut":
        file.write_bytes(before[: chance.randrange(len(before))])
    elif how == "swapped":
        pairs = [(b"W", b"V"), (b"F32", b"I32"), (b"F32", b"F64"), (b"[6,3", b"[3,6"), (b": 5", b": -5"), (b"[", b"{")]
        old, new = chance.choice([pair for pair in pairs if pair[0] in before] or [(b"", b"x")])
        file.write_bytes(before.replace(old, new, 1))
    return f"{file.name} {how}"


def alter(seed: int, folder: Path, run_id: str, parent: str) -> str:
    """Alter a record at random; return how, in words."""
    chance = random.Random(seed)
    if chance.random() < 0.4:
        return alter_artifact(chance, folder / "mlartifacts" / chance.choice([run_id, parent]) / "artifacts")
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as table, table:
        return alter_row(chance, table, run_id, parent)


def answer(run_id: str, ask: Callable[[], dict[str, Answer]]) -> str:
    """Reproduce a run; return the outcome: refused, differs, same, hang or traceback."""
    try:
        with within(HANG_SECONDS):
            return "differs" if ask()[run_id].differences else "same"
    except InputError as refused:
        return "refused" if str(refused).startswith(run_id) else f"traceback: no message: {refused}"
    except Hang:
        return "hang"
    except Exception:  # noqa: BLE001 - tracebacks are counted
        return f"traceback: {traceback.format_exc()}"


def fuzz(repository: Path, folder: Path, seeds: range, patch: pytest.MonkeyPatch) -> Iterator[tuple[int, str, str]]:
    """Alter a record for each seed; yield the seed, the alteration and the answer of `reproduce`."""
    made = records.read_evaluated(["matrix"])
    table = rounding.table(load_file(outs.PREPARED))
    patch.setattr(reproduce, "make", lambda stored: (made if stored.params["variant"] == "matrix" else [], table))
    [one] = search(default_store(repository), "params.variant = 'matrix' and params.batch_size = '2'")
    run_id, parent = one.info.run_id, one.data.tags["mlflow.parentRunId"]
    uri = copy_records(repository, folder)
    patch.setenv("MLFLOW_TRACKING_URI", uri)
    shutil.copytree(folder / "mlartifacts", folder / "whole")
    assert answer(run_id, lambda: reproduce.reproduce("regression", [run_id])) == "same"
    for seed in seeds:
        with sqlite3.connect(repository / "mlflow.db") as original, sqlite3.connect(folder / "mlflow.db") as copy:
            original.backup(copy)
            for name, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
                copy.execute(f"UPDATE {name} SET {column} = replace({column}, ?, ?)", [str(repository), str(folder)])
        shutil.rmtree(folder / "mlartifacts")
        shutil.copytree(folder / "whole", folder / "mlartifacts")
        altered = alter(seed, folder, run_id, parent)
        yield seed, altered, answer(run_id, lambda: reproduce.reproduce("regression", [run_id]))


def main() -> None:
    """Make a small sweep, alter its record as often as the command line says, and print the tally."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--repository", type=Path, help="one with a small sweep (default: make it)")
    options = parser.parse_args()
    os.environ |= environment()
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        repository = options.repository or small_sweep(Path(temporary) / "repository")
        patch.chdir(repository)
        (Path(temporary) / "store").mkdir()
        tally: Counter[str] = Counter()
        for seed, altered, said in fuzz(repository, Path(temporary) / "store", range(options.count), patch):
            tally[said.split(":")[0]] += 1
            if said not in {"refused", "differs"}:
                print(f"seed {seed}: {altered}: {said}")
    print(f"{options.count} records: {', '.join(f'{count} {said}' for said, count in sorted(tally.items()))}")
    sys.exit(1 if tally["traceback"] or tally["hang"] else 0)


def small_sweep(folder: Path) -> Path:
    """Make a repository with a small sweep."""
    folder.mkdir()
    copy_checkout(folder)
    shorten(folder)
    run("dvc", "repro", cwd=folder)
    return folder


if __name__ == "__main__":
    main()
