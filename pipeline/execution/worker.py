"""A worker process: what it does, and the stage's end of it."""

import copyreg
import io
import os
import pickle
import signal
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.execution.checkpoints import Checkpoints
from pipeline.runs.records import Array
from pipeline.table.prepared import Prepared
from pipeline.training import stacks
from pipeline.training.stacks import Fitted, Stack

REPORT_SECONDS = 0.2  # between two reports of a stack's curves
STANDARD = (0, 1, 2)  # input, output and errors
LOST = (EOFError, BrokenPipeError, ConnectionResetError)  # the other end of a pipe is gone


@dataclass(frozen=True)
class Task:
    """The stage asks for a stack, and for the paths of the runs with `seed`."""

    stack: Stack
    seed: int


@dataclass(frozen=True)
class Grown:
    """The worker's curves have grown until `epoch`: columns (F, new epochs), of the F runs on all training rows."""

    columns: Array
    epoch: int


@dataclass(frozen=True)
class Trained:
    """The worker has trained the stack, and may have saved checkpoints under these keys."""

    fits: list[Fitted]
    keys: set[str]


@dataclass(frozen=True)
class Failed:
    """The worker could not train the stack."""

    error: Exception


class Pickler(pickle.Pickler):
    """Sends tensors as arrays, in 3 µs; torch's own way takes 100 µs for each."""

    dispatch_table = copyreg.dispatch_table | {Tensor: lambda tensor: (torch.from_numpy, (tensor.numpy(),))}


def send(pipe: Connection, message: object) -> None:
    """Write a message."""
    content = io.BytesIO()
    Pickler(content, pickle.HIGHEST_PROTOCOL).dump(message)
    pipe.send_bytes(content.getbuffer())


class Worker:
    """The stage's end of a worker."""

    def __init__(self, pid: int, pipe: Connection) -> None:
        self.pid, self.pipe = pid, pipe
        self.stack: Stack | None = None  # in training there
        self.curves: Array = np.zeros((0, 0), dtype=np.float32)  # the stack's, so far
        self.epoch = 0

    def begin(self, stack: Stack, seed: int) -> None:
        """Let it train a stack."""
        self.stack, self.epoch = stack, 0
        self.curves = np.zeros((len(stack.fits), stack.fits[0][0].epochs), dtype=np.float32)
        with suppress(*LOST):  # whoever hears it next learns that
            send(self.pipe, Task(stack, seed))

    def hear(self) -> Grown | Trained | Failed | None:
        """Read what it reports; None if it was killed."""
        try:
            told: Grown | Trained | Failed = pickle.loads(self.pipe.recv_bytes())  # noqa: S301 - our own process
        except LOST:
            return None
        if isinstance(told, Grown) and self.stack:
            self.curves[list(self.stack.places.values()), self.epoch : told.epoch] = told.columns
            self.epoch = told.epoch
        return told

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
    os.read(lifeline, 1)  # nobody writes: it returns when the stage is gone
    os._exit(1)


def serve(pipe: Connection, prepared: Prepared, checkpoints: Checkpoints) -> None:
    """Train what the stage asks for.

    Raises:
        EOFError: the stage is gone.
    """
    while True:
        task: Task = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own stage
        send(pipe, _trained(task.stack, prepared, pipe, checkpoints, task.seed))


def _trained(
    stack: Stack, prepared: Prepared, pipe: Connection, checkpoints: Checkpoints, seed: int
) -> Trained | Failed:
    rows, sent, due = list(stack.places.values()), 0, 0.0

    def follow(_: Stack, curves: Array, epoch: int) -> None:
        nonlocal sent, due
        if time.monotonic() >= due:
            send(pipe, Grown(curves[rows, sent:epoch], epoch))
            sent, due = epoch, time.monotonic() + REPORT_SECONDS

    try:
        return Trained(stacks.train(stack, prepared, follow, checkpoints, seed), checkpoints.keys)
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
