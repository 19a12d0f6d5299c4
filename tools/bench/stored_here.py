"""Stores a stage's runs in the stage's own process, in place of piped.Piped, to measure what the second process buys.

bench.piped lets the end of a clone's pipeline/tracking/piped.py import it.
"""

import gc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.config.params import Params
from pipeline.runs.records import Array, Record
from pipeline.runs.run import Run
from pipeline.system import processes
from pipeline.tracking.runs import FAILED, FINISHED

if TYPE_CHECKING:
    from pipeline.system.progress import Display


class Here:
    """Has what a stage uses of Piped."""

    def __init__(self, params: Params, runs: Sequence[Run], display: "Display | None" = None) -> None:  # noqa: ARG002
        self.params, self.runs = params, list(runs)
        self.stored = 0

    def __enter__(self) -> Self:
        from pipeline.tracking.direct import Direct  # noqa: PLC0415 - loads SQLAlchemy, after workers were forked

        processes.stop_when_told()
        gc.set_threshold(1_000_000)  # as in the storing process
        self.direct = Direct(self.params, self.runs, os.getpid(), report=self._count)
        return self

    def _count(self) -> None:
        self.stored += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.direct.end(FAILED if error else FINISHED, str(error or ""))

    def start(self, runs: Sequence[Run]) -> None:
        self.direct.start(list(dict.fromkeys(runs)))

    def follow(self, places: Mapping[str, int], curves: Array, epoch: int) -> None:
        self.direct.follow(places, curves, epoch)

    def finish(self, records: Sequence[Record]) -> None:
        self.direct.finish(records)

    def measure(self, evaluated: Sequence[Record]) -> None:
        self.direct.measure(evaluated)

    def complete(self, artifacts: Sequence[Path], champion: str) -> None:
        self.direct.conclude(artifacts, champion)

    @property
    def news(self) -> str:
        from pipeline.tracking import listings  # noqa: PLC0415

        return "\n".join([*self.direct.said, *listings.links(self.direct.store, self.direct.parent.run.run_id)])


def nothing(*modules: str) -> None:
    """Start no process ahead."""
