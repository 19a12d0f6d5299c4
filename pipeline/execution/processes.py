"""The engine that trains stacks in worker processes, forked from the stage: torch is imported once, the data lie once.

They are forked before the stage has threads. They hold none of its open files but the standard ones, as the storing
process must see its pipe end with the stage; and they end with the stage too, by a pipe that ends when it does.
"""

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

from pipeline.execution.checkpoints import Checkpoints
from pipeline.execution.cost import work
from pipeline.execution.listener import Listener
from pipeline.execution.local import Here
from pipeline.execution.worker import Failed, Grown, Trained, Worker, fork
from pipeline.system.progress import count
from pipeline.table.prepared import Prepared
from pipeline.training.stacks import Fitted, Stack


class Workers:
    """Processes of this machine. See: engines.Engine."""

    def __init__(self, count: int, prepared: Prepared, checkpoints: Checkpoints) -> None:
        """Take how many, the data, and where stacks resume from and keep their state."""
        self.count, self.prepared, self.checkpoints = count, prepared, checkpoints
        self.workers: list[Worker] = []

    def __enter__(self) -> Self:
        gc.freeze()  # or each worker's collector would touch, and so copy, all that torch's import made
        theirs, self.lifeline = os.pipe()
        self.workers = [fork(theirs, self.prepared, self.checkpoints) for _ in range(self.count)]
        os.close(theirs)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(self.workers)
        os.close(self.lifeline)

    def train(self, planned: Sequence[Stack], listener: Listener, seed: int) -> Iterator[tuple[Stack, list[Fitted]]]:
        """Train stacks, those first that take longest; a killed worker's stack trains again in another."""
        waiting = sorted(planned, key=lambda stack: work(stack, self.prepared.X.shape[1]))  # the last one is next
        try:
            while self._hand_out(waiting, listener, seed):
                for worker, stack in self._heard():
                    match worker.hear():
                        case Grown(_, epoch):
                            listener.follow(stack, worker.curves, epoch)
                        case Trained(fits, keys):
                            worker.stack = None
                            self.checkpoints.keys |= keys
                            self._hand_out(waiting, listener, seed)
                            yield stack, fits
                        case Failed(error):
                            raise error
                        case None:
                            self._mourn(worker)
                            waiting.append(stack)
        finally:
            self._end(self.busy)  # the caller wants no more
        yield from Here(self.prepared, self.checkpoints).train(waiting[::-1], listener, seed)  # no worker is left

    @property
    def busy(self) -> list[Worker]:
        """The workers that train."""
        return [worker for worker in self.workers if worker.stack]

    def _heard(self) -> list[tuple[Worker, Stack]]:
        # Waits until some of the busy workers report.
        ready = wait([worker.pipe for worker in self.busy])
        return [(worker, worker.stack) for worker in self.busy if worker.stack and worker.pipe in ready]

    def _hand_out(self, waiting: list[Stack], listener: Listener, seed: int) -> bool:
        # Gives each idle worker a stack, if one is waiting; tells whether any worker trains.
        for worker in self.workers:
            if waiting and worker.stack is None:
                stack = waiting.pop()
                worker.begin(stack, seed)
                listener.start(stack)
        return bool(self.busy)

    def _mourn(self, worker: Worker) -> None:
        self._end([worker])
        left = f"{count(len(self.workers), 'worker')} left" if self.workers else "the stage trains them itself"
        print(f"WARNING: a worker process was killed; its runs train again; {left}", file=sys.stderr)

    def _end(self, workers: Sequence[Worker]) -> None:
        for worker in workers:
            worker.end()
        self.workers = [worker for worker in self.workers if worker not in workers]
