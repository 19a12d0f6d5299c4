"""`pipeline doctor --mend`: mend the lock files that a killed DVC left half-written.

DVC truncates dvc.lock and .dvc/tmp/rwlock before it writes them. If it is killed in between, it cannot read them
afterwards, and every later DVC command fails.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import psutil
from ruamel.yaml import YAML, YAMLError

from pipeline.errors import InputError
from pipeline.system import processes
from pipeline.system.files import replacing

LOCK = Path("dvc.lock")
RWLOCK = Path(".dvc/tmp/rwlock")
BROKEN = Path(".dvc/tmp/dvc.lock.broken")  # git ignores it there
CONFLICT = re.compile(rb"^<{7} ", re.MULTILINE)
HASHES = {"md5", "md5-dos2unix"}


def mend(root: Path) -> list[str]:
    """Restore dvc.lock from git, and remove rwlock, if DVC cannot read them; return what was done.

    Raises:
        InputError: a running DVC may still write them, or dvc.lock has both sides of a merge.
    """
    if lock_is_readable(root) and rwlock_is_readable(root):
        return []
    from dvc.lock import LockError, make_lock  # noqa: PLC0415 - takes 0.2 s
    from dvc.repo import Repo  # noqa: PLC0415

    with Repo(str(root)) as repo:
        hardlink = repo.config["core"].get("hardlink_lock", False)
        guard = make_lock(str(root / f"{RWLOCK}.lock"), tmp_dir=repo.tmp_dir, hardlink_lock=hardlink)
        try:
            with repo.lock, guard:
                return list(_mend(root))
        except LockError as error:
            raise InputError(f"{root}: a running DVC has the lock; run this again when it has ended") from error


def _mend(root: Path) -> Iterator[str]:
    # DVC releases its locks while a stage runs: then only rwlock shows that it is running.
    lock, rwlock = lock_is_readable(root), rwlock_is_readable(root)  # again: a DVC may just have written them
    if not (lock and rwlock) and (pid := running_dvc(root)):
        raise InputError(f"{root}: DVC is running here (process {pid}); run this again when it has ended")
    if not rwlock:
        (root / RWLOCK).unlink()
        yield f"{RWLOCK}: was half-written; removed"
    if not lock:
        if holds_conflict(root):
            raise InputError(
                f"{LOCK}: has both sides of a merge; take one (git checkout --ours {LOCK}, or --theirs) and run again"
            )
        yield restore_lock(root)


def restore_lock(root: Path) -> str:
    """Replace the broken dvc.lock with git's, and keep the broken one; return what was done.

    The index comes first: it may be newer than the commit. If git has no dvc.lock, DVC writes a new one.
    """
    (root / BROKEN).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(root / LOCK, root / BROKEN)
    for source in ("", "HEAD"):
        show = subprocess.run(["git", "show", f"{source}:./{LOCK}"], cwd=root, capture_output=True, check=False)
        if show.returncode == 0 and is_lock(show.stdout):
            with replacing(root / LOCK) as temporary:
                temporary.write_bytes(show.stdout)
                shutil.copymode(root / BROKEN, temporary)
            how = f"restored from git's {'commit' if source else 'index'}"
            break
    else:
        (root / LOCK).unlink()
        how = "removed, as git has no other; dvc repro writes a new one"
    return f"{LOCK}: was unreadable; {how}; the broken one is {BROKEN}"


def holds_conflict(root: Path) -> bool:
    """Tell whether dvc.lock has both sides of a merge, so that a person must choose one."""
    return CONFLICT.search((root / LOCK).read_bytes()) is not None


def lock_is_readable(root: Path) -> bool:
    """Tell whether DVC can read dvc.lock; true if there is none."""
    return not (root / LOCK).exists() or is_lock((root / LOCK).read_bytes())


def is_lock(content: bytes) -> bool:
    """Tell whether DVC accepts a dvc.lock with this content."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA  # noqa: PLC0415 - takes 0.1 s
    from voluptuous import Invalid  # noqa: PLC0415

    try:
        lock = COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(content.decode()))
    except (YAMLError, UnicodeDecodeError, Invalid):
        return False
    entries = chain(*(stage.get(kind, []) for stage in lock.get("stages", {}).values() for kind in ("deps", "outs")))
    return all(entry.get("hash", "md5") in HASHES for entry in entries)  # DVC ends in a traceback over any other


def rwlock_is_readable(root: Path) -> bool:
    """Tell whether DVC can read .dvc/tmp/rwlock; true if there is none."""
    from dvc.rwlock import SCHEMA  # noqa: PLC0415
    from voluptuous import Invalid  # noqa: PLC0415

    try:
        SCHEMA(json.loads((root / RWLOCK).read_bytes()))
    except FileNotFoundError:
        return True
    except (ValueError, Invalid):
        return False
    return True


def running_dvc(root: Path) -> int | None:
    """Return the process id of a live DVC that works in this repository, or that rwlock still lists."""
    for process in psutil.process_iter(["cwd"]):
        if processes.is_dvc(process):
            folder = process.info["cwd"]  # None: another user's, so it may be here
            if folder is None or Path(folder).is_relative_to(root):
                return int(process.pid)
    written = (root / RWLOCK).stat().st_mtime if (root / RWLOCK).exists() else 0.0
    left = (root / RWLOCK).read_bytes() if written else b""
    for pid in map(int, re.findall(rb'"pid": (\d+),', left)):
        try:
            process = psutil.Process(pid)
            # A later process may have the same id.
            if process.create_time() <= written and process.status() != psutil.STATUS_ZOMBIE:
                return pid
        except psutil.NoSuchProcess:
            continue
    return None
