"""Alter one recorded value or file, as somebody with access to the disk could, and check that doctor names it.

`make chaos` makes 40 alterations and prints the tally; a test makes a few.
"""

import hashlib
import random
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import copy_store, default_store, run, search
from mlflow.entities import Run

Look = Callable[[str], str]  # from a store's URI to what doctor says about it

OF_RUN = "WHERE run_uuid = '{run}' AND key = "
OF_PARENT = "WHERE run_uuid = '{parent}' AND key = "
TAGS = (
    *("fingerprint", "role", "sweep", "mlflow.parentRunId", "data_md5", "source_md5", "weights_md5", "git_commit"),
    *("mlflow.source.git.commit", "git_dirty", "git_changes", "dvc_stage", "mlflow.user"),
    *("architecture", "kernels", "torch", "mlflow.pipeline.seal", "mlflow.pipeline.seal_files"),
)
REMOVED = ("weights_md5", "mlflow.pipeline.seal", "fingerprint")
ADDED = ("contradicts", "diverged", "restored", "confirmed")
ROWS = {
    **{f"tag {key}": f"UPDATE tags SET value = 'x' || value {OF_RUN}'{key}'" for key in TAGS},
    **{
        f"tag {key} removed": f"DELETE FROM tags {OF_RUN}'{key}'"
        for key in ("weights_md5", "mlflow.pipeline.seal", "fingerprint")
    },
    **{
        f"tag {key} added": f"INSERT INTO tags (run_uuid, key, value) VALUES ('{{run}}', '{key}', '1')" for key in ADDED
    },
    "status": "UPDATE runs SET status = 'KILLED' WHERE run_uuid = '{run}'",
    "status FAILED": "UPDATE runs SET status = 'FAILED' WHERE run_uuid = '{run}'",
    "begin": "UPDATE runs SET start_time = start_time - 1000 WHERE run_uuid = '{run}'",
    "end": "UPDATE runs SET end_time = end_time + 1 WHERE run_uuid = '{run}'",
    "run deleted": "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = '{run}'",
    "param lr": f"UPDATE params SET value = '1e-06' {OF_RUN}'lr'",
    "param removed": f"DELETE FROM params {OF_RUN}'seed'",
    "param added": "INSERT INTO params (run_uuid, key, value) VALUES ('{run}', 'trick', '1')",
    "last cv/mse": f"UPDATE latest_metrics SET value = value / 2 {OF_RUN}'cv/mse'",
    "last train/mse": f"UPDATE latest_metrics SET value = value / 2 {OF_RUN}'train/mse'",
    "last cv/r2 removed": f"DELETE FROM latest_metrics {OF_RUN}'cv/r2'",
    "cv/mse": f"UPDATE metrics SET value = value / 2 {OF_RUN}'cv/mse'",
    "point": f"UPDATE metrics SET value = value * 1.001 {OF_RUN}'train/mse' AND step = 7",
    "point removed": f"DELETE FROM metrics {OF_RUN}'train/mse' AND step = 7",
    "point added": (
        "INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan) "
        f"SELECT run_uuid, key, value / 2, timestamp + 1, step, is_nan FROM metrics {OF_RUN}'train/mse' AND step = 7"
    ),
    "dataset digest": "UPDATE datasets SET digest = 'x' || digest",
    "dataset name": "UPDATE datasets SET name = 'x' || name",
    "dataset source": "UPDATE datasets SET dataset_source = replace(dataset_source, 'scores', 'others')",
    "dataset schema": "UPDATE datasets SET dataset_schema = replace(dataset_schema, 'double', 'long')",
    "dataset profile": "UPDATE datasets SET dataset_profile = replace(dataset_profile, '5', '6')",
    "input removed": "DELETE FROM inputs WHERE destination_id = '{run}'",
    "input's purpose": "UPDATE input_tags SET value = 'x' || value",
    "sweep's champion": f"UPDATE tags SET value = 'x' || value {OF_PARENT}'champion'",
    "sweep's champion removed": f"DELETE FROM tags {OF_PARENT}'champion'",
    "sweep's figure": f"UPDATE latest_metrics SET value = value / 2 {OF_PARENT}'champion/cv/mse'",
    "sweep's figures removed": "DELETE FROM latest_metrics WHERE run_uuid = '{parent}'",
    "sweep's commit": f"UPDATE tags SET value = 'x' || value {OF_PARENT}'git_commit'",
    "sweep's param": f"UPDATE params SET value = '7' {OF_PARENT}'train.epochs'",
    "sweep's seal removed": f"DELETE FROM tags {OF_PARENT}'mlflow.pipeline.seal'",
    "sweep's list's hash": f"UPDATE tags SET value = 'x' || value {OF_PARENT}'mlflow.pipeline.seal_files'",
    "sweep's role": f"UPDATE tags SET value = 'x' {OF_PARENT}'role'",
    "sweep's status": "UPDATE runs SET status = 'FAILED' WHERE run_uuid = '{parent}'",
    "sweep deleted": "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = '{parent}'",
}
OUTS = (
    "data/prepared/*",
    "data/trained/*/*",
    "data/evaluated/*",
    "plots/*",
    "leaderboard.csv",
    "metrics.json",
    "report.html",
)


def folder_of(one: Run) -> Path:
    """Return the folder of a run's artifacts."""
    return Path(one.info.artifact_uri.removeprefix("file://"))


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


@contextmanager
def kept(path: Path) -> Iterator[Path]:
    """Restore a file at the end, or remove it if it did not exist."""
    with tempfile.TemporaryDirectory() as temporary:
        there = path.exists()
        if there:
            shutil.copy2(path, Path(temporary) / "kept")
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
            if there:
                shutil.copy2(Path(temporary) / "kept", path)


class Altered:
    """A repository with a sweep, for one alteration at a time."""

    def __init__(self, repository: Path, scratch: Path, look: Look) -> None:
        """Choose a run and its parent.

        Args:
            repository: contains MLflow's store.
            scratch: an empty folder.
            look: calls doctor.
        """
        self.repository, self.scratch, self.look = repository, scratch, look
        self.uri = default_store(repository)
        own = search(self.uri, "tags.role = 'run' and tags.dvc_experiment != 'other'") or search(self.uri)
        self.run = next(one for one in own if one.data.tags["dvc_stage"] == "train@matrix")
        self.parent = next(
            one
            for one in search(self.uri, "tags.role = 'sweep'")
            if one.info.run_id == self.run.data.tags["mlflow.parentRunId"]
        )
        self.stores = 0

    def cases(self) -> dict[str, Callable[[], bool]]:
        """Return the alterations by name; each is made and undone, and returns whether doctor named it."""
        rows = {name: (lambda sql=sql: self.row(sql)) for name, sql in ROWS.items()}
        weights = folder_of(self.run) / "weights.safetensors"
        sweeps = [path for path in sorted(folder_of(self.parent).iterdir()) if path.is_file()]
        outs = [path for pattern in OUTS for path in sorted(self.repository.glob(pattern)) if path.is_file()]
        cache = sorted(self.repository.glob(".dvc/cache/files/md5/??/*"))
        files = [weights, *sweeps, *outs, cache[0], cache[-1]]
        flipped = {f"{path.parent.name}/{path.name}": (lambda path=path: self.file(path, flip)) for path in files}
        gone = {
            f"{path.name} removed": (lambda path=path: self.file(path, Path.unlink))
            for path in (weights, sweeps[0], sweeps[-1], outs[0])
        }
        strange = self.repository / "data/trained/matrix/strange"
        more = {
            "weights and their md5": self.weights_and_md5,
            "a file more": lambda: self.file(strange, lambda path: path.write_bytes(b"?")),
            "dvc.lock": lambda: self.file(self.repository / "dvc.lock", swap_md5),
        }
        return rows | flipped | gone | more

    def row(self, sql: str) -> bool:
        """Change rows in a copy of the store."""
        return self.named(self.altered_store(sql), [self.run.info.run_id, self.parent.info.run_id])

    def altered_store(self, sql: str) -> str:
        """Copy the store and change the copy."""
        self.stores += 1
        file = self.scratch / f"{self.stores}.db"
        uri = copy_store(self.repository, file)
        with sqlite3.connect(file) as connection:
            ids = {"run": self.run.info.run_id, "parent": self.parent.info.run_id}
            assert connection.execute(sql.format(**ids)).rowcount > 0, sql
        connection.close()
        return uri

    def file(self, path: Path, change: Callable[[Path], object]) -> bool:
        """Change a file."""
        with kept(path):
            change(path)
            inside = (
                path.is_relative_to(self.repository) and ".dvc" not in path.parts and "mlartifacts" not in path.parts
            )
            name = str(path.relative_to(self.repository)) if inside else str(path)
            return self.named(self.uri, [name, "data/trained/matrix"] if path.name == "dvc.lock" else [name])

    def weights_and_md5(self) -> bool:
        """Change the weights and the recorded md5 together, so that they match."""
        with kept(folder_of(self.run) / "weights.safetensors") as path:
            flip(path)
            md5 = hashlib.md5(path.read_bytes()).hexdigest()
            uri = self.altered_store(f"UPDATE tags SET value = '{md5}' {OF_RUN}'weights_md5'")
            return self.named(uri, [self.run.info.run_id])

    def named(self, uri: str, names: list[str]) -> bool:
        """Tell whether doctor names one of `names`; for a run that it does not find, it names the fingerprint."""
        said = self.look(uri)
        return any(name in said for name in [*names, self.run.data.tags["fingerprint"]])


def swap_md5(path: Path) -> None:
    """Give the trained weights another md5 in dvc.lock."""
    text = path.read_text()
    md5 = re.findall(r"path: data/trained/matrix\n.*\n +md5: (.{32})", text)[0]
    path.write_text(text.replace(md5, hashlib.md5(md5.encode()).hexdigest()))


def doctor(repository: Path) -> Look:
    """Run `pipeline doctor --deep` as a person does."""

    def look(uri: str) -> str:
        said = run("pipeline", "doctor", "--deep", cwd=repository, extra={"MLFLOW_TRACKING_URI": uri}, check=False)
        assert "Traceback" not in said.stdout + said.stderr
        return said.stdout + said.stderr

    return look


def tally(repository: Path, scratch: Path, count: int, seed: int) -> list[str]:
    """Make `count` alterations, print each outcome, and return those that doctor did not notice."""
    cases = Altered(repository, scratch, doctor(repository)).cases()
    missed = []
    for name in random.Random(seed).sample(sorted(cases), count):
        found = cases[name]()
        print(f"altered: {name:40} {'found and named' if found else 'NOT FOUND'}", flush=True)
        missed += [] if found else [name]
    return missed
