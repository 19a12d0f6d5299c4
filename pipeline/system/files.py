"""Files: written whole or not at all, with the same bytes every time, and hashed as DVC does."""

import csv
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step.

    Raises:
        OSError: `path` cannot be written; it is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # without it, a power loss may keep the new name and lose the bytes
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        # The error of a full disk names no file, or the temporary one.
        number = getattr(error, "errno", None) or next(map(int, re.findall(r"os error (\d+)", str(error))), None)
        raise OSError(number, f"cannot be written: {os.strerror(number) if number else error}", str(path)) from error
    finally:
        with suppress(OSError):  # a read-only file system raises even if there is nothing to remove
            temporary.unlink()


def temporary_beside(path: Path) -> Path:
    """Return a temporary path beside `path`; remove those that killed processes left behind."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = left.suffixes[-2].removeprefix(".")
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, in the order of its keys."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows under a header; missing values and None are left empty."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read rows as text, keyed by the header."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def file_md5(path: Path) -> str:
    """Return the md5 of a file's bytes, as DVC writes it in dvc.lock."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def md5_of(content: bytes) -> str:
    """Hash content as DVC does."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def is_whole(path: Path, md5: str) -> bool:
    """Tell whether a file is there and has this md5; DVC trusts those in its cache unread.

    Args:
        path: of the file.
        md5: as DVC notes it; one of a list of a folder's files ends in .dir.
    """
    return path.is_file() and file_md5(path) == md5.removesuffix(".dir")


def named_md5(path: Path) -> str:
    """Return the md5 that a file in DVC's cache should have: its name, and its folder's."""
    return path.parent.name + path.name
