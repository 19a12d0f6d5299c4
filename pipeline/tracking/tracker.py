"""A stage's line to MLflow: a process of its own does the storing, so that training neither waits nor loads MLflow.

It outlives a killed stage and ends its runs as KILLED.
"""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline import lifetime
from pipeline.params import Params
from pipeline.records import Array, Record
from pipeline.sweep import Run, curve_steps

STORE_LOST, INPUT_WRONG = 3, 4  # exit codes of the storing process
LOST = "WARNING: MLflow was lost; what is trained stays in DVC's outs, and is stored later by: pipeline sync"
FOLLOW_SECONDS = 5.0  # between two batches of a growing curve
Follow = Callable[[Mapping[str, int], Array, int], None]


class Tracker:
    """Tell `recorder.Recorder`, in a process beside this one, what a stage does; leaving waits until it is stored.

    SIGINT, SIGTERM and the end of the DVC that runs the stage make its runs KILLED, any other exception FAILED.
    """

    def __init__(self, params: Params, runs: Sequence[Run]) -> None:
        self.followed = time.monotonic()
        self.steps = curve_steps(params.train.epochs, params.track.points)
        self.told: dict[str, int] = {}  # by fingerprint, how many epochs of the curve were passed on
        self.arguments = params, list(runs), os.getpid()
        self.lost = False

    def __enter__(self) -> Self:
        lifetime.stop_when_told()
        # A session of its own: Ctrl-C and the kill of a process group are the stage's to tell.
        command = [sys.executable, "-m", "pipeline.tracking.recorder"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        self._send("begin", *self.arguments)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "FINISHED" if error is None else "FAILED" if isinstance(error, Exception) else "KILLED"
        if not self.lost:
            self._send("end", status, f"{type(error).__name__}: {error}")
        if not self.lost:
            self._end()

    def start(self, runs: Sequence[Run]) -> None:
        """Open runs that begin to train."""
        self._send("start", list(runs))

    def follow(self, places: Mapping[str, int], curves: Array, epoch: int) -> None:
        """Pass on by which stored points the curves of running runs have grown, every few seconds.

        Args:
            places: by fingerprint, rows of `curves`.
            curves: (R, epochs), float32.
            epoch: the number of epochs done.
        """
        if time.monotonic() - self.followed > FOLLOW_SECONDS:
            grown = {}
            for fingerprint, r in places.items():
                new = [step for step in self.steps if self.told.get(fingerprint, 0) <= step < epoch]
                grown[fingerprint] = dict(zip(new, curves[r, new].tolist(), strict=True))
                self.told[fingerprint] = epoch
            self._send("follow", grown)
            self.followed = time.monotonic()

    def finish(self, record: Record) -> None:
        """Store and end a trained run."""
        self._send("finish", record)

    def complete(self, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> None:
        """Store the evaluation of all runs, and end the sweep."""
        self._send("complete", list(evaluated), list(artifacts), champion)

    def _send(self, method: str, *arguments: object) -> None:
        if self.lost:
            return
        assert self.process.stdin is not None
        try:
            # With the time: the storing process starts later than training, and may lag behind it.
            pickle.dump((time.time(), method, arguments), self.process.stdin)
            self.process.stdin.flush()
        except BrokenPipeError:
            self._end()

    def _end(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait()
        except KeyboardInterrupt:  # what was told before is stored all the same; a second one does not wait for it
            self.process.wait()
            raise
        self.lost = self.process.returncode != 0
        if self.process.returncode == INPUT_WRONG:
            raise SystemExit(1)  # the process has said why
        if self.lost:  # also by an error of its own: that costs no training
            print(LOST, file=sys.stderr)
