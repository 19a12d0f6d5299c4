"""Sends a stage's runs to a separate process, which stores them: both ends of the pipe.

So training does not wait for the store, and the runs of a killed stage are still ended as KILLED. The other
end is `python -m pipeline.tracking`, which reads pickled messages from its standard input, and writes into a second
pipe a byte for each run that it has stored, and at last links to MLflow's pages.
"""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from select import select
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from pipeline.config.params import Params
from pipeline.errors import InputError
from pipeline.runs.records import Array, Record
from pipeline.runs.run import Run, curve_steps
from pipeline.system import processes
from pipeline.tracking.runs import FAILED, FINISHED, KILLED, Points

if TYPE_CHECKING:  # torch, and what imports MLflow
    from pipeline.system.progress import Display
    from pipeline.training.stacks import Stack

FOLLOW_SECONDS = 5.0  # between two batches of a curve's points
STORE_LOST, INPUT_WRONG = 3, 4  # exit codes of the storing process
BEGIN, CLOSE = "begin", "close"  # the first and the last message
STORED = b"\0"  # reports a stored run
LOST = "WARNING: lost MLflow; the results are in DVC's outs; store them later with: pipeline sync"
REFUSED = "the runs cannot be stored; see above"


def send(pipe: IO[bytes], call: str, *arguments: object) -> None:
    """Write a message, with the time: the storing process starts later than training, and may lag behind it.

    Args:
        pipe: the storing process's standard input.
        call: BEGIN, then names of the session's methods; CLOSE is the last.
        arguments: the session's, or the method's.
    """
    pickle.dump((time.time(), call, arguments), pipe)
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[float, str, tuple[Any, ...]]:
    """Read a message: its time, in seconds since 1970, the call and its arguments.

    If the messages stop without CLOSE, the stage was killed.
    """
    try:
        at, call, arguments = pickle.load(pipe)  # noqa: S301 - from our own parent process
    except (EOFError, pickle.UnpicklingError):
        return time.time(), CLOSE, (KILLED, "the stage's process was killed")
    return at, call, arguments


Storing = tuple[subprocess.Popen[bytes], int]  # a process that stores, and the pipe of its reports
_ahead: list[Storing] = []  # started before they are needed


def launch(*modules: str) -> Storing:
    """Start a storing process, which loads modules that it will need; it ends at once if its pipe ends before BEGIN."""
    reports, theirs = os.pipe()
    # In its own session: Ctrl-C and signals to the process group reach the stage, which reports them.
    command = [sys.executable, "-m", "pipeline.tracking", str(theirs), *modules]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[theirs], start_new_session=True)
    os.close(theirs)
    return process, reports


def launch_ahead(*modules: str) -> None:
    """Start the storing process of this stage, so that both load at once."""
    _ahead.append(launch(*modules))


class CurvePoints:
    """Chooses which points of growing curves to store, every few seconds."""

    def __init__(self, most: int) -> None:
        """Start with empty curves, of which at most so many points are stored."""
        self.most = most
        self.done: dict[str, int] = {}  # fingerprint -> epochs of the curve already returned
        self.followed = time.monotonic()

    def new(self, places: Mapping[str, int], curves: Array, epoch: int) -> Points:
        """Return the points added since the last time, fingerprint -> step -> value; none if that is too recent.

        Args:
            places: fingerprint -> row of `curves`.
            curves: (R, epochs), float32.
            epoch: the number of epochs done.
        """
        if time.monotonic() - self.followed <= FOLLOW_SECONDS:
            return {}
        added, steps = {}, curve_steps(curves.shape[1], self.most)
        for fingerprint, r in places.items():
            new = [step for step in steps if self.done.get(fingerprint, 0) <= step < epoch]
            added[fingerprint] = dict(zip(new, curves[r, new].tolist(), strict=True))
            self.done[fingerprint] = epoch
        self.followed = time.monotonic()
        return added


class Tracker:
    """The stage's end of the pipe, and a listener of its training; leaving it waits until everything is stored.

    A run goes through start, follow and finish, then through measure and conclude once the sweep is evaluated. SIGINT,
    SIGTERM and the end of the DVC that runs the stage end its runs as KILLED, any other exception as FAILED.
    """

    def __init__(self, params: Params, runs: Sequence[Run], display: "Display | None" = None) -> None:
        """Prepare to send a sweep's runs; `display` shows that the stage waits for the store."""
        self.points = CurvePoints(params.track.points)
        self.params, self.runs = params, list(runs)
        self.display = display
        self.sent = 0
        self.heard = b""  # from the storing process
        self.lost = False

    def __enter__(self) -> Self:
        processes.stop_when_told()
        self.process, self.reports = _ahead.pop() if _ahead else launch()
        self._send(BEGIN, self.params, self.runs, os.getpid())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close(FINISHED, "")
            return
        with suppress(InputError):  # the stage's own error says more
            self.close(FAILED if isinstance(error, Exception) else KILLED, f"{type(error).__name__}: {error}")

    def start(self, stack: "Stack") -> None:
        """Open the runs of a stack that starts to train, unless it pauses before their end.

        What a run is that a search may end early, and so its fingerprint, is known only when it ends.
        """
        if stack.until in {None, stack.fits[0][0].epochs}:
            self._send("start", list(dict.fromkeys(run for run, _ in stack.fits)))

    def follow(self, stack: "Stack", curves: Array, epoch: int) -> None:
        """Send, every few seconds, the new points of running runs' curves; may be called after every epoch."""
        if added := self.points.new(stack.places, curves, epoch):
            self._send("grow", added)

    def end(self, stack: "Stack") -> None:
        """Do nothing: what is stored of a stack are its runs."""

    def finish(self, records: Sequence[Record]) -> None:
        """Store and end trained runs."""
        self.sent += len(records)
        self._send("finish", list(records))

    def measure(self, evaluated: Sequence[Record]) -> None:
        """Store the evaluation of all runs, while the stage draws its pictures."""
        self.sent += len(evaluated)
        self._send("measure", list(evaluated))

    def conclude(self, artifacts: Sequence[Path], champion: str) -> None:
        """Store the evaluation's files, and end the sweep."""
        self._send("conclude", list(artifacts), champion)

    def count_stored(self) -> int:
        """Count the runs that are stored so far."""
        while self._hear(0):
            pass
        return self.heard.count(STORED)

    @property
    def news(self) -> str:
        """What a person should know of an evaluated sweep, and links to MLflow's pages, a line for each."""
        return self.heard.replace(STORED, b"").decode()

    def _hear(self, seconds: float) -> bool:
        # Waits for what the storing process reports, at most this long; false if nothing came.
        if not self.reports or not select([self.reports], [], [], seconds)[0]:
            return False
        if content := os.read(self.reports, 2**16):
            self.heard += content
            return True
        os.close(self.reports)  # it has ended
        self.reports = 0
        return False

    def close(self, status: str, error: str) -> None:
        """End the stage: runs left open get the status, and the error unless it is FINISHED; wait for the store."""
        self._send(CLOSE, status, error)
        if not self.lost:
            self._shut()

    def _send(self, call: str, *arguments: object) -> None:
        if self.lost:
            return
        assert self.process.stdin is not None
        try:
            send(self.process.stdin, call, *arguments)
        except BrokenPipeError:
            self._shut()

    def _shut(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self._wait()
        except KeyboardInterrupt:  # what was already sent is still stored; a second Ctrl-C does not wait for it
            self._wait()
            raise
        self.lost = self.process.returncode != 0
        if self.process.returncode == INPUT_WRONG:
            raise InputError(REFUSED)
        if self.lost:  # even through an error of its own: training goes on
            if self.display:
                self.display.clear()
            print(LOST, file=sys.stderr)

    def _wait(self) -> None:
        while self.reports:
            self._hear(0.1)
            if self.display:
                self.display.storing(self.count_stored(), self.sent)
        self.process.wait()


def reporter(pipe: int) -> Callable[[bytes], None]:
    """Return what reports to the stage, without ever waiting for it."""
    os.set_blocking(pipe, False)

    def report(content: bytes) -> None:
        with suppress(BlockingIOError, BrokenPipeError):  # it does not listen, or was killed
            os.write(pipe, content)

    return report


def serve(messages: IO[bytes], report: Callable[[bytes], object] = len) -> int:
    """Store what the stage sends, and report each stored run and, at last, news; the other end of the pipes.

    Returns:
        0, STORE_LOST if the store fails, or INPUT_WRONG.
    """
    from pipeline.tracking import queries  # noqa: PLC0415 - with SQLAlchemy, 0.3 s: not in the stage
    from pipeline.tracking.session import Session  # noqa: PLC0415
    from pipeline.tracking.store.location import StoreError  # noqa: PLC0415

    at, call, arguments = receive(messages)
    if call != BEGIN:
        return 0  # the stage was killed before it sent anything
    try:
        params, runs, pid = arguments
        session = Session(params, runs, pid, clock=lambda: at, report=lambda: report(STORED))
        while call != CLOSE:
            at, call, arguments = receive(messages)
            getattr(session, call)(*arguments)
        report("\n".join([*session.news, *queries.sweep_links(session.store, session.sweep.run.run_id)]).encode())
    except (StoreError, InputError) as error:
        print(error, file=sys.stderr)
        return STORE_LOST if isinstance(error, StoreError) else INPUT_WRONG
    return 0
