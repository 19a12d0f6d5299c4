"""Runs that need not train again: their records stand in earlier outs, which DVC's cache still holds.

Before it runs a stage, DVC deletes the stage's outs; dvc.lock, as it was, names them by their md5, and so does that of
the last commit. <repository>/.dvc/tmp/made names those that this repository made, whichever experiment they belong to,
and the kernels they were made with: outs without such a note, pulled or made elsewhere, may have other bits, and are
not used.
"""

import csv
import functools
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from ruamel.yaml import YAML, YAMLError
from safetensors import SafetensorError

from pipeline.errors import InputError
from pipeline.runs import records
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.system import machine, repository
from pipeline.system.files import file_md5, is_whole, named_md5, write_json

MADE = Path(".dvc/tmp/made")
RECENT = 20  # the most notes that are looked at: each costs a read of a table of runs
DAMAGED = (OSError, ValueError, KeyError, IndexError, TypeError, csv.Error, SafetensorError)


def recall(runs: Sequence[Run], environment: Mapping[str, str], nested: bool = False) -> dict[str, Record]:
    """Find the records of those of one variant's runs that trained before, by fingerprint.

    Args:
        runs: all of the variant's, in the order of the sweep: the paths of the first seed's runs are kept.
        environment: its variables. A stage that a person starts without DVC always trains; so does any with
            PIPELINE_RETRAIN=1.
        nested: whether the fits of nested cross-validation are wanted too, as far as they are there.

    Raises:
        InputError: PIPELINE_RETRAIN is wrong.
    """
    if environment.get("PIPELINE_RETRAIN", "") not in {"", "1"}:
        raise InputError(f"PIPELINE_RETRAIN: got {environment['PIPELINE_RETRAIN']!r}, takes 1; or unset it")
    if "DVC_STAGE" not in environment or environment.get("PIPELINE_RETRAIN"):
        return {}
    missing = {run.fingerprint: run for run in runs}
    found: dict[str, Record] = {}
    for md5 in dict.fromkeys(earlier(runs[0].variant, runs[0].device)):
        for record in _read(md5, missing.keys()):
            run = missing.get(record.run.fingerprint)
            if run and (record.path is not None or run.seed != runs[0].seed):
                path = record.path if run.seed == runs[0].seed else None
                found[run.fingerprint] = replace(record, path=path, inner=record.inner if nested else {})
                if record.inner or not nested:
                    del missing[run.fingerprint]
        if not missing:
            break
    return found


def note(folder: Path) -> None:
    """Note that this repository made a variant's outs, and with which kernels."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    listing = [{"md5": file_md5(path), "relpath": path.name} for path in files]
    # As DVC writes the list of a folder's files, whose md5 is the folder's.
    md5 = hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
    write_json(repository.root() / MADE / f"{md5}.json", {"variant": folder.name, **machine.numeric_tags()})


def earlier(variant: str, device: str) -> Iterator[str]:
    """List the md5s of a variant's outs that were made here with these kernels: dvc.lock's first, then the latest."""
    folder, here = repository.root() / MADE, machine.numeric_tags()

    def made_here(md5: str) -> bool:
        try:
            tags = json.loads((folder / f"{md5}.json").read_text(encoding="utf-8"))
            return tags["variant"] == variant and not machine.may_differ(tags, here, device)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    yield from filter(made_here, locked(variant))
    notes = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    own = (path.stem for path in notes if made_here(path.stem))
    yield from (md5 for _, md5 in zip(range(RECENT), own, strict=False))


def locked(variant: str) -> Iterator[str]:
    """List the md5s of a variant's outs that dvc.lock names, here and in the last commit."""
    texts = [Path("dvc.lock").read_text(encoding="utf-8")] if Path("dvc.lock").exists() else []
    for text in [*texts, repository.git("show", "HEAD:./dvc.lock") or ""]:
        with suppress(YAMLError, AttributeError, KeyError, TypeError):  # half-written, or of another form
            stages = YAML(typ="safe", pure=True).load(text)["stages"]
            for out in stages.get(f"train@{variant}", {}).get("outs", []):
                if re.fullmatch(r"[0-9a-f]{32}\.dir", out["md5"]):
                    yield out["md5"].removesuffix(".dir")


@functools.cache
def cache(folder: Path) -> Path:
    """Locate DVC's cache, wherever its configuration puts it; in an experiment's copy, it names the repository's.

    Args:
        folder: the workspace, or an experiment's copy of it.
    """
    from dvc.config import Config  # noqa: PLC0415 - takes 0.1 s

    configured = Config(str(folder / ".dvc"), validate=False)["cache"].get("dir")
    return Path(configured or folder / ".dvc/cache") / "files/md5"


def _read(md5: str, wanted: Iterable[str]) -> list[Record]:
    # Every file is compared with its md5: DVC trusts those in its cache unread.
    try:
        cached = cache(Path.cwd())
        listing = json.loads(_whole(cached / md5[:2] / f"{md5[2:]}.dir").read_text(encoding="utf-8"))
        files = {Path(one["relpath"]).name: cached / one["md5"][:2] / one["md5"][2:] for one in listing}
        table = _whole(files["runs.csv"]).read_text(encoding="utf-8")
        if not set(wanted) & {row["fingerprint"] for row in csv.DictReader(StringIO(table))}:
            return []
        with TemporaryDirectory() as folder:
            for name, path in files.items():
                (Path(folder) / name).symlink_to(_whole(path).resolve())
            return records.read(Path(folder))
    except DAMAGED:
        return []  # gone from the cache, damaged, or of an earlier version


def _whole(path: Path) -> Path:
    """Return a file of the cache whose md5 is the one in its name; remove a damaged one, or DVC would restore it.

    Raises:
        OSError: it is gone or damaged.
    """
    if is_whole(path, named_md5(path)):
        return path
    if path.exists():
        print(
            f"WARNING: {path}: was damaged, its md5 is not the one in its name; its runs train again", file=sys.stderr
        )
        with suppress(OSError):  # a shared cache may be another user's
            path.unlink()
    raise OSError(f"{path}: is gone or damaged")
