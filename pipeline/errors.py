"""How a stage or command ends without a traceback: stopped, with wrong input, or unable to read or write."""

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn

STAGES = {"prepare", "train", "evaluate"}
STOPPED = 130  # the exit code after Ctrl-C, as shells report it


class InputError(Exception):
    """The user's input is wrong: the process ends with this message on stderr and exit code 1, without a traceback."""


def say_why(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print why this process ends, in place of sys.excepthook; unexpected errors get a traceback.

    Raises:
        SystemExit: with the exit code.
    """
    stage = Path(sys.argv[0]).stem in STAGES
    go_on = "go on with: dvc repro" if "DVC_EXP_NAME" not in os.environ else "go on with the same: dvc exp run"
    if issubclass(kind, KeyboardInterrupt):
        again = f"; finished stages are kept; {go_on}" if stage else ""
        print(f"stopped{again}", file=sys.stderr)
        raise SystemExit(STOPPED)
    if isinstance(error, InputError):
        print(error, file=sys.stderr)
        raise SystemExit(1)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        again = f"; mend this, and {go_on}" if stage else ""
        print(f"{where}{error.strerror or error}{again}", file=sys.stderr)
        raise SystemExit(1)
    sys.__excepthook__(kind, error, trace)


def leave(code: int = 0) -> NoReturn:
    """End this process without tearing its modules down, which takes 0.2 s each for torch and MLflow."""
    atexit._run_exitfuncs()  # noqa: SLF001
    for file in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader is gone
            file.flush()
    os._exit(code)


SHOWN = 20  # the most faults in one message


def refuse(name: str, faults: Sequence[str]) -> None:
    """Refuse an input; the message names its first faults and counts the others.

    Raises:
        InputError: there are faults.
    """
    if faults:
        more = [f"and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
        raise InputError("\n".join([*(f"{name}: {fault}" for fault in faults[:SHOWN]), *more]))


def printable(value: object, kept: str = "") -> str:
    """Return text with control and invisible characters escaped, except those that are kept."""
    return "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in str(value))


def brief(value: object) -> str:
    """Return a value's repr in at most 200 characters."""
    try:
        written = repr(value)
    except ValueError:  # Python refuses to print so many digits of a whole number, which YAML may give in hexadecimal
        return "a number of thousands of digits"
    return written if len(written) <= 200 else f"{written[:199]}…"


def shown(value: object) -> str:
    """Show a value from a store in at most 100 printable characters."""
    written = ascii(value)
    return written if len(written) <= 100 else f"{written[:97]}…"


def readable(content: bytes) -> str:
    """Show text on a terminal, with control and hidden characters made visible."""
    return printable(content.decode(errors="backslashreplace"), kept="\n\t")


def first_line(error: BaseException) -> str:
    """Show an error on one line."""
    return shown(" ".join(str(error).split()))[1:-1] or type(error).__name__
