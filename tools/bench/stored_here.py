"""Stores a stage's runs in the stage's own process, in place of tracker.Tracker, to measure what the latter gains.

bench.storing_process lets the end of a clone's pipeline/tracking/tracker.py import it.
"""

import gc
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.config.params import Params
from pipeline.runs.records import Array, Record
from pipeline.runs.run import Run
from pipeline.system import processes
from pipeline.tracking.runs import FAILED, FINISHED
from pipeline.tracking.tracker import CurvePoints

if TYPE_CHECKING:
    from pipeline.system.progress import Display
    from pipeline.training.stacks import Stack


class Here:
    """The part of Tracker that a stage uses."""

    def __init__(self, params: Params, runs: Sequence[Run], display: "Display | None" = None) -> None:  # noqa: ARG002
        self.params, self.runs = params, list(runs)
        self.stored, self.points = 0, CurvePoints(params.track.points)

    def __enter__(self) -> Self:
        from pipeline.tracking.session import Session  # noqa: PLC0415 - loads SQLAlchemy, after workers were forked

        processes.stop_when_told()
        gc.set_threshold(1_000_000)  # as in the storing process
        self.session = Session(self.params, self.runs, os.getpid(), report=self._count)
        return self

    def count_stored(self) -> int:
        return self.stored

    def _count(self) -> None:
        self.stored += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(FAILED if error else FINISHED, str(error or ""))

    def close(self, status: str, error: str) -> None:
        self.session.close(status, error)

    def start(self, stack: "Stack") -> None:
        self.session.start(list(dict.fromkeys(run for run, _ in stack.fits)))

    def follow(self, stack: "Stack", curves: Array, epoch: int) -> None:
        self.session.grow(self.points.new(stack.places, curves, epoch))

    def end(self, stack: "Stack") -> None:
        pass

    def finish(self, records: Sequence[Record]) -> None:
        self.session.finish(records)

    def measure(self, evaluated: Sequence[Record]) -> None:
        self.session.measure(evaluated)

    def conclude(self, artifacts: Sequence[Path], champion: str) -> None:
        self.session.conclude(artifacts, champion)

    @property
    def news(self) -> str:
        from pipeline.tracking import queries  # noqa: PLC0415

        return "\n".join([*self.session.news, *queries.sweep_links(self.session.store, self.session.sweep.run.run_id)])


def nothing(*modules: str) -> None:
    """Start no process in advance."""
