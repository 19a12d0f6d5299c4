"""What DVC has: the runs of a revision, and content by its md5."""

import csv
import re
from pathlib import Path

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import SCMError
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.index import DataIndexDirError

from pipeline.errors import InputError
from pipeline.runs import outs
from pipeline.system import repository
from pipeline.system.files import is_whole


def run_names(revision: str | None) -> dict[str, str]:
    """List the runs, fingerprint -> name, of a commit or DVC experiment, or of the workspace.

    Raises:
        InputError: there is no such revision, or DVC no longer has its outs.
    """
    found = tables(revision, f"{outs.TRAINED}/*/runs.csv")
    return {row["fingerprint"]: row["name"] for rows in found for row in rows}


def tables(revision: str | None, pattern: str) -> list[list[dict[str, str]]]:
    """Read the tables whose paths match a pattern in the outs of a commit or DVC experiment, or of the workspace.

    Raises:
        InputError: there is no such revision, it has no such table, or DVC no longer has its outs.
    """
    where = revision or "the workspace"
    try:
        files = DVCFileSystem(str(repository.root()), rev=revision)
        texts = [files.read_text(path, encoding="utf-8") for path in sorted(files.glob(pattern))]
    except SCMError as error:
        known = "list experiments with: dvc exp list --all-commits"
        raise InputError(f"{where}: is not a commit, branch, tag or DVC experiment here: {error}; {known}") from error
    except (DvcException, DataIndexDirError, OSError) as error:
        there = f"; at that revision, {repository.make_or_pull()}" if revision else f"; {repository.make_or_pull()}"
        raise InputError(f"{where}: its outs are not here, nor in DVC's cache: {error}{there}") from error
    if not texts:
        raise InputError(f"{where}: has no trained runs; run: dvc repro")
    return [list(csv.DictReader(text.splitlines())) for text in texts]


def content(md5: str) -> bytes | None:
    """Find content by its md5 in DVC's cache, or in its remote; None if it is in neither.

    Raises:
        InputError: it is not an md5, so it could lead to files outside the cache, or DVC fails.
    """
    if not re.fullmatch("[0-9a-f]{32}", md5):
        raise InputError(f"{md5!a}: is not an md5, which is 32 hexadecimal digits")
    try:
        with Repo(str(repository.root())) as repo:
            path = Path(repo.cache.local.oid_to_path(md5))
            if not is_whole(path, md5) and repo.config["core"].get("remote"):
                path.unlink(missing_ok=True)
                repo.cloud.pull([HashInfo("md5", md5)])
            return path.read_bytes() if is_whole(path, md5) else None
    except (DvcException, SCMError, OSError) as error:
        raise InputError(f"md5 {md5}: DVC's cache or remote cannot be read: {error}") from error
