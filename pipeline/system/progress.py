"""A stage's progress: one line that is redrawn at a terminal, a plain line every few seconds elsewhere.

It only watches, and changes no bit of any out.
"""

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from types import TracebackType
from typing import IO, Self, TypeVar

from rich.console import Console

REDRAW_SECONDS, PLAIN_SECONDS = 0.25, 5.0
Row = TypeVar("Row")
ERASE = "\r\x1b[2K"  # go to the line's first column, and erase the line


@contextmanager
def unheard(file: IO[str]) -> Iterator[None]:
    """Write to a file; a reader that is gone, or a full disk, does not stop the stage."""
    try:
        yield
        file.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())  # for what is still buffered, and all that follows
        os.close(nowhere)


def write(file: IO[str], text: str) -> None:
    """Write text, whether or not anybody reads it."""
    with unheard(file):
        file.write(text)


class Display:
    """A stage's line on standard output."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        """Start the stage's clock.

        Args:
            title: the first word of each line.
            console: standard output; it knows the terminal, its width, NO_COLOR and TERM.
        """
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # an encoding without ± must not stop the stage
        self.title = title
        self.console = console or Console(highlight=False)
        self.redraws = self.console.is_terminal and not self.console.is_dumb_terminal
        self.every = REDRAW_SECONDS if self.redraws else PLAIN_SECONDS
        self.begun = time.monotonic()
        self.next = self.begun + self.every
        self.storing_since: tuple[float, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    @property
    def elapsed(self) -> float:
        """The seconds since the stage began."""
        return time.monotonic() - self.begun

    def is_due(self) -> bool:
        """Tell whether it is time for the next line; this takes less than a microsecond."""
        return time.monotonic() >= self.next

    def draw(self, *parts: str) -> None:
        """Draw the line from its parts, the most important first; parts that do not fit the width are left out."""
        self.next = time.monotonic() + self.every
        given = [part for part in parts if part]
        if not self.redraws:
            write(self.console.file, f"{self.title}: {', '.join(given)}\n")
            return
        most = self.console.width - 1  # a full line would wrap on some terminals
        line = self.title
        for part in given:
            longer = f"{line}{':' if line == self.title else ','} {part}"
            line = longer if len(longer) <= most else line
        write(self.console.file, f"{ERASE}{line[:most]}")

    def clear(self) -> None:
        """Erase the line, so that others can print."""
        if self.redraws:
            write(self.console.file, ERASE)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        write(self.console.file, f"{self.title}: {text}\n")

    def reading(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield a table's rows, and show how many are read."""
        for n, row in enumerate(rows, start=1):
            if not n % 4096 and self.is_due():
                self.draw(f"{n:,} rows read")
            yield row

    def evaluating(self, records: Sequence[Row]) -> Iterator[Row]:
        """Yield the records of runs, and show how many of them are evaluated."""
        for n, record in enumerate(records):
            if self.is_due():
                left = self.elapsed / n * (len(records) - n) if n else math.nan
                self.draw(f"{n:,} of {count(len(records), 'run')} evaluated", remaining(left))
            yield record

    def storing(self, stored: int, sent: int) -> None:
        """Show, if it is time, how many runs are stored while the stage waits for that."""
        since, before = self.storing_since = self.storing_since or (time.monotonic(), stored)
        if self.is_due() and sent:
            waited = time.monotonic() - since
            left = waited / (stored - before) * (sent - stored) if stored > before and waited > 1 else math.nan
            self.draw(f"storing: {stored:,} of {count(sent, 'run')} stored", remaining(left))


def remaining(seconds: float) -> str:
    """Write how much time is left; empty if that is unknown."""
    return f"{duration(seconds)} left" if seconds > 0 else ""


def duration(seconds: float) -> str:
    """Write a time in at most two units."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes < 10 else f"{minutes} min"


def count(number: int, thing: str) -> str:
    """Write a number of things, with an s if they are many."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
