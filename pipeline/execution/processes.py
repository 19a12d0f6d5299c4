"""The engine that trains stacks in worker processes, forked from the stage: torch and the data are loaded once.

They are forked before the stage has threads. They close its files except the standard ones, as the storing process must
see its pipe end with the stage; they end with the stage too, by a pipe that ends when it does.
"""

import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from typing import NoReturn, Self

from pipeline.errors import InputError
from pipeline.execution.checkpoints import Checkpoints
from pipeline.execution.cost import work
from pipeline.execution.engine import Here, RemoteStack
from pipeline.execution.listener import Listener
from pipeline.execution.messages import Failed, Grown, Reporter, Task, Trained, pack, unpack
from pipeline.system.progress import count
from pipeline.table.prepared import Prepared
from pipeline.training import stacks
from pipeline.training.stacks import Fitted, Stack

REPORT_SECONDS = 0.2  # between two reports of a stack's curves
STANDARD = (0, 1, 2)  # input, output and errors
LOST = (EOFError, BrokenPipeError, ConnectionResetError)  # the other end of a pipe is gone


class Workers:
    """Processes of this machine. See: engine.Engine."""

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

    def __exit__(self, *_: object) -> None:
        self._end(self.workers)
        os.close(self.lifeline)

    def train(self, planned: Sequence[Stack], listener: Listener, seed: int) -> Iterator[tuple[Stack, list[Fitted]]]:
        """Train stacks, those first that take longest; a killed worker's stack trains again in another."""
        waiting = sorted(planned, key=lambda stack: work(stack, self.prepared.X.shape[1]))  # the last one is next
        try:
            while self._hand_out(waiting, listener, seed):
                for worker, remote in self._ready():
                    match worker.receive():
                        case Grown() as grown:
                            remote.grow(grown, listener)
                        case Trained(fits, keys):
                            worker.remote = None
                            self.checkpoints.keys |= keys
                            self._hand_out(waiting, listener, seed)
                            yield remote.stack, fits
                        case Failed(error):
                            raise error
                        case None:
                            self._bury(worker)
                            waiting.append(remote.stack)
        finally:
            self._end(self.busy)  # the caller wants no more
        yield from Here(self.prepared, self.checkpoints).train(waiting[::-1], listener, seed)  # no worker is left

    @property
    def busy(self) -> "list[Worker]":
        """The workers that train."""
        return [worker for worker in self.workers if worker.remote]

    def _ready(self) -> "list[tuple[Worker, RemoteStack]]":
        # Waits until some of the busy workers report.
        ready = wait([worker.pipe for worker in self.busy])
        return [(worker, worker.remote) for worker in self.busy if worker.remote and worker.pipe in ready]

    def _hand_out(self, waiting: list[Stack], listener: Listener, seed: int) -> bool:
        # Gives each idle worker a stack, if one is waiting; tells whether any worker trains.
        for worker in self.workers:
            if waiting and worker.remote is None:
                stack = waiting.pop()
                worker.begin(stack, seed)
                listener.start(stack)
        return bool(self.busy)

    def _bury(self, worker: "Worker") -> None:
        self._end([worker])
        left = f"{count(len(self.workers), 'worker')} left" if self.workers else "the stage trains them itself"
        print(f"WARNING: a worker process was killed; its runs train again; {left}", file=sys.stderr)

    def _end(self, workers: "Sequence[Worker]") -> None:
        for worker in workers:
            worker.end()
        self.workers = [worker for worker in self.workers if worker not in workers]


class Worker:
    """The stage's end of a worker."""

    def __init__(self, pid: int, pipe: Connection) -> None:
        self.pid, self.pipe = pid, pipe
        self.remote: RemoteStack | None = None  # in training there

    def begin(self, stack: Stack, seed: int) -> None:
        """Give it a stack to train."""
        self.remote = RemoteStack(stack)
        with suppress(*LOST):  # `receive` finds that out
            self.pipe.send_bytes(pack(Task(stack, seed)))

    def receive(self) -> Grown | Trained | Failed | None:
        """Read what it reports; None if it was killed."""
        try:
            message: Grown | Trained | Failed = unpack(self.pipe.recv_bytes())
        except LOST:
            return None
        return message

    def end(self) -> None:
        """End it, whatever it does."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.pipe.close()
        os.waitpid(self.pid, 0)


def fork(lifeline: int, prepared: Prepared, checkpoints: Checkpoints) -> Worker:
    """Start a worker, which trains on this process's data, and ends when the other end of `lifeline` is closed."""
    ours, theirs = Pipe()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        pid = os.fork()
        if pid == 0:
            _be_worker(theirs, lifeline, prepared, checkpoints)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    theirs.close()
    return Worker(pid, ours)


def _be_worker(pipe: Connection, lifeline: int, prepared: Prepared, checkpoints: Checkpoints) -> NoReturn:
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the stage too, which ends its workers
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
        _close_all_but(*STANDARD, pipe.fileno(), lifeline)
        threading.Thread(target=_end_with_stage, args=(lifeline,), daemon=True).start()
        with suppress(*LOST):
            serve(pipe, prepared, checkpoints)
    finally:
        os._exit(1)  # without the stage's own ways to end, whose copies are here


def _close_all_but(*kept: int) -> None:
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - names, not paths
        if int(name) not in kept:
            with suppress(OSError):  # the listing's own
                os.close(int(name))


def _end_with_stage(lifeline: int) -> None:
    os.read(lifeline, 1)  # nothing is ever written: it returns when the stage is gone
    os._exit(1)


def serve(pipe: Connection, prepared: Prepared, checkpoints: Checkpoints) -> None:
    """Train what the stage asks for.

    Raises:
        EOFError: the stage is gone.
    """
    while True:
        task: Task = unpack(pipe.recv_bytes())
        pipe.send_bytes(pack(_trained(task, prepared, pipe, checkpoints)))


def _trained(task: Task, prepared: Prepared, pipe: Connection, checkpoints: Checkpoints) -> Trained | Failed:
    reporter = Reporter(lambda grown: pipe.send_bytes(pack(grown)), REPORT_SECONDS)
    try:
        return Trained(stacks.train(task.stack, prepared, reporter.follow, checkpoints, task.seed), checkpoints.keys)
    except LOST:
        raise
    except (InputError, OSError) as error:
        return Failed(error)
    except Exception as error:  # noqa: BLE001 - the stage raises it
        return Failed(RuntimeError(_described(error)))


def _described(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"{text} ({place.filename}, line {place.lineno}, in a worker process)"
