"""`pipeline doctor`: what is wrong with the installation, repository and store, and how to mend it."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from urllib.parse import unquote, urlparse

import psutil
from dvc.repo import Repo
from ruamel.yaml import YAML, YAMLError

from pipeline.commands import locks
from pipeline.config.params import load
from pipeline.errors import InputError
from pipeline.runs import outs, records
from pipeline.system import addresses, repository
from pipeline.system.files import is_whole, named_md5
from pipeline.tracking import queries, sync
from pipeline.tracking.audit import Finding, audit

MD5 = r"[0-9a-f]{32}(\.dir)?"
NETWORK = re.compile(r"nfs|cifs|smb|sshfs|9p|lustre|ceph|gluster|afs|s3fs|gcsfuse|davfs", re.IGNORECASE)


@dataclass(frozen=True)
class Examination:
    """What was found, and what was examined, in words."""

    findings: list[Finding]
    looked_at: str


def examine(deep: bool) -> Examination:
    """Look for faults that the pipeline cannot prevent; `deep` also hashes outs, cache and the records in MLflow."""
    root = repository.root()
    findings = [*installation(), *environment()]
    if not (root / ".dvc").is_dir():
        return Examination(findings, "the installation alone; no repository is here: no folder above has .dvc in it")
    unreadable = [*lock_files(root)]
    findings += [*unreadable, *store({} if deep else outs.run_names())]
    looked_at = "installation, repository and store"
    if deep:
        recorded, said = records_in_store()
        outs_here = [] if unreadable else [*damaged_outs(root)]
        findings += [*outs_here, *damaged_cache(root), *recorded]
        looked_at += f"; as recorded: {said}"
    return Examination(findings, looked_at)


def installation() -> Iterator[Finding]:
    """Check which programs PATH has, and the installed versions."""
    activate = "activate the environment: . .venv/bin/activate"
    for program in ("python", "dvc", "mlflow"):
        found = shutil.which(program)
        if found is None:
            yield Finding(f"{program}: not on PATH", activate)
        elif Path(found).parent.resolve() != Path(sys.executable).parent.resolve():
            yield Finding(f"{program}: the first on PATH is {found}, not that of {sys.prefix}", activate)
    constraints = repository.root() / "constraints.txt"
    for line in constraints.read_text(encoding="utf-8").splitlines() if constraints.exists() else []:
        name, _, pinned = line.partition("==")
        try:
            installed = version(name).split("+")[0]
        except PackageNotFoundError:
            continue  # another platform's, or an optional tool
        if pinned and installed != pinned:
            yield Finding(f"{name}: version {installed} is installed, constraints.txt pins {pinned}", "make setup")


def environment() -> Iterator[Finding]:
    """Check for variables that send runs to the wrong place."""
    if os.environ.get("MLFLOW_RUN_ID"):
        yield Finding("MLFLOW_RUN_ID is set: MLflow's fluent calls write into that run", "unset MLFLOW_RUN_ID")
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    named = f"MLFLOW_TRACKING_URI={addresses.shown(given)}"
    file = repository.sqlite_file(given)
    if file is not None and not file.is_absolute():
        yield Finding(
            f"{named} is relative: mlflow itself opens another store in each folder",
            f"export MLFLOW_TRACKING_URI={addresses.shown(f'sqlite:///{repository.root() / file}')}, or unset it",
        )
    if given and "://" not in given:
        yield Finding(f"{named} is a folder: MLflow no longer writes file stores", "unset it")


def lock_files(root: Path) -> Iterator[Finding]:
    """Check that DVC can read its lock files, which a killed DVC leaves half-written."""
    lock, rwlock = root / locks.LOCK, root / locks.RWLOCK
    if not locks.rwlock_is_readable(root):
        yield Finding(f"{rwlock}: DVC cannot read this file", "pipeline doctor --mend")
    try:
        content = YAML(typ="safe", pure=True).load(lock)
    except FileNotFoundError:
        return
    except (YAMLError, UnicodeDecodeError):
        content = None
    restore, faults = "git checkout HEAD -- dvc.lock && dvc repro", []
    if isinstance(content, dict):
        faults = list(broken_entries(content))
        yield from (Finding(f"{lock}: {fault}", restore) for fault in faults)
    if not faults and not locks.lock_is_readable(root):
        chosen = restore if locks.holds_conflict(root) else "pipeline doctor --mend && dvc repro"
        yield Finding(f"{lock}: DVC cannot read this file", chosen)


def broken_entries(lock: Mapping[str, object]) -> Iterator[str]:
    """List the entries of dvc.lock that have no md5; DVC ends in a traceback over them.

    Args:
        lock: the file's content.
    """
    stages = lock.get("stages", {})
    for name, stage in stages.items() if isinstance(stages, dict) else [("stages", None)]:
        entries = [stage.get(kind, []) for kind in ("deps", "outs")] if isinstance(stage, dict) else []
        if not entries or not all(isinstance(listed, list) for listed in entries):
            yield f"{name}: is not a stage"
            continue
        for entry in chain(*entries):
            path, md5 = (entry.get("path"), entry.get("md5")) if isinstance(entry, dict) else (None, None)
            if not isinstance(path, str) or not isinstance(md5, str) or not re.fullmatch(MD5, md5):
                yield f"stage {name}, path {path!a}: md5 {md5!a} is not 32 hexadecimal digits"


def not_stored(lacking: Sequence[str]) -> Iterator[Finding]:
    """Report runs of the outs that MLflow lacks; a `dvc repro` with nothing to run does not store them."""
    if lacking:
        first = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
        yield Finding(f"{len(lacking)} runs of the outs are not in MLflow: {first}", "pipeline sync")


def store(expected: Mapping[str, str]) -> Iterator[Finding]:
    """Check the place of the store and of its artifacts, and its runs; `expected` is fingerprint -> name."""
    root = repository.root()
    file = repository.sqlite_file(repository.store_uri())
    if file is not None:
        kind = file_system(file)
        if NETWORK.search(kind):
            yield Finding(
                f"{file}: is on a network file system ({kind}), where SQLite's locks do not work",
                "set MLFLOW_TRACKING_URI to a file on a local disk, or to an MLflow server",
            )
        if not file.exists():
            yield from not_stored(list(expected.values()))
            return
    try:
        experiment = load().track.experiment
        ended = sync.end_stale(experiment)
        health = queries.health(experiment, expected)
    except InputError as error:
        yield Finding(str(error), "start the server, or unset MLFLOW_TRACKING_URI; then: pipeline sync")
        return
    if health.lost:
        yield Finding(health.lost, "install the pinned MLflow: make setup; or a pipeline that knows this MLflow")
    yield from not_stored(health.lacking)
    for run in ended:
        yield Finding(f"{run}: was RUNNING though its process was gone; it is now KILLED", "dvc repro")
    for run_id, name in health.ownerless.items():
        what = f"{name} ({run_id}): is RUNNING, but has no process on record"
        yield Finding(what, f"mlflow runs delete --run-id {run_id}, or end it where it was started")
    if health.artifacts.startswith("file:") and not os.environ.get("MLFLOW_TRACKING_URI"):
        yield from misplaced(Path(unquote(urlparse(health.artifacts).path)), root)


def misplaced(folder: Path, root: Path) -> Iterator[Finding]:
    """Check that MLflow keeps its artifacts in a folder of this repository."""
    usual = root / "mlartifacts"
    if not folder.exists() and usual.exists():
        yield Finding(
            f"{folder}: MLflow looks for artifacts here, but they moved to {usual}",
            f"mkdir -p {folder.parent} && ln -s {usual} {folder}",
        )
    elif folder.exists() and folder.resolve() != usual.resolve():
        yield Finding(
            f"{folder}: MLflow keeps artifacts here, not in {usual}; this repository is a copy of another",
            f"mv {root / 'mlflow.db'} {root / 'mlflow.copied.db'} && pipeline sync",
        )


def file_system(path: Path) -> str:
    """Name the kind of file system that a path is on."""
    mounts = [mount for mount in psutil.disk_partitions(all=True) if path.resolve().is_relative_to(mount.mountpoint)]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else ""


def damaged_outs(root: Path) -> Iterator[Finding]:
    """Compare every out in the workspace with its md5 in dvc.lock."""
    lock = root / "dvc.lock"
    recorded = YAML(typ="safe", pure=True).load(lock)["stages"] if lock.exists() else {}
    with Repo(str(root)) as repo:
        stages = {stage.addressing for stage in repo.index.stages}  # dvc.lock keeps those that dvc.yaml no longer has
        outputs = [out for name, stage in recorded.items() if name in stages for out in stage.get("outs", [])]
        if not any((root / out["path"]).exists() for out in outputs):
            return  # a clone that has not pulled or made them
        for out in outputs:
            yield from damaged_out(root, out["path"], out["md5"], Path(repo.cache.local.oid_to_path(out["md5"])))


def damaged_out(root: Path, out: str, md5: str, cached: Path) -> Iterator[Finding]:
    """Compare an out with its md5: a file, or each file of a folder, as DVC's cache lists it."""
    mend = f"rm -rf {out} && dvc checkout {out}, or dvc repro"
    files = {out: md5}
    if md5.endswith(".dir"):
        if not is_whole(cached, md5):
            yield Finding(f"{cached}: DVC's list of {out} is missing or damaged", f"rm -rf {cached} {out} && dvc repro")
            return
        listing = json.loads(cached.read_text(encoding="utf-8"))
        files = {f"{out}/{file['relpath']}": file["md5"] for file in listing}
        here = {path.relative_to(root).as_posix() for path in (root / out).rglob("*") if path.is_file()}
        yield from (Finding(f"{path}: is not in DVC's list of {out}", mend) for path in sorted(here - set(files)))
    for path, expected in files.items():
        if not (root / path).exists():
            yield Finding(f"{path}: is missing", mend)
        elif not is_whole(root / path, expected):
            yield Finding(f"{path}: its md5 is not the one in dvc.lock, {expected}", mend)


def damaged_cache(root: Path) -> Iterator[Finding]:
    """Compare every file of DVC's cache with the md5 in its name; DVC trusts them without reading."""
    with Repo(str(root)) as repo:
        folder = Path(repo.cache.local.path)
    for path in sorted(folder.glob("??/*")):
        if re.fullmatch(MD5, md5 := named_md5(path)) and not is_whole(path, md5):
            again = repository.make_or_pull().removeprefix("run: ")
            yield Finding(f"{path}: its md5 is not the one in its name", f"rm -f {path}, then {again}")


def records_in_store() -> tuple[list[Finding], str]:
    """Compare the runs in MLflow with their seals and with the outs; also return what was examined, in words."""
    settings = load()
    try:
        evaluated, here = records.read_evaluated(settings.variants), "outs"
    except FileNotFoundError:
        evaluated, here = [], f"no outs, as there are none here ({repository.make_or_pull()})"
    except InputError:  # the outs are damaged; their hashes name the file
        evaluated, here = [], "outs, not compared with MLflow as they are damaged"
    file = repository.sqlite_file(repository.store_uri())
    if file is not None and not file.exists():
        return [], f"{here}, cache, no runs, as there is no {file}"
    found = audit(settings.track.experiment, evaluated)
    unsealed = f" ({found.unsealed} of them unsealed, older than seals)" if found.unsealed else ""
    return found.findings, f"{here}, cache, {found.runs} runs{unsealed}, their artifacts"
