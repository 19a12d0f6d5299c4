"""The engine that trains stacks on a Ray cluster: RAY_ADDRESS's, or one on this machine that ends with the stage."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray asks once, when it starts a cluster
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its coming default, without the warning

import ray
from ray import exceptions

from pipeline.errors import InputError
from pipeline.execution import ray_worker
from pipeline.execution.cost import work
from pipeline.execution.engine import RemoteStack
from pipeline.execution.listener import Listener
from pipeline.execution.messages import Grown, Started, Task, Trained, pack, unpack
from pipeline.runs.fingerprints import PACKAGE
from pipeline.system import kernels, machine
from pipeline.table.prepared import Prepared
from pipeline.training.stacks import Fitted, Stack

REACH_SECONDS = 10.0
ANSWER_SECONDS = 1.0  # within which a node answers
TRIES = 4  # of a stack whose worker or node is lost
LOST = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,  # a result that was still on a lost node
)
FORCED = {"default", "native"}  # kernels that PIPELINE_KERNELS can ask any machine for


class Cluster:
    """A Ray cluster. See: engine.Engine."""

    def __init__(self, address: str, workers: int, prepared: Prepared) -> None:
        """Take where the cluster is, and the data.

        Args:
            address: HOST:PORT, or empty to start one on this machine.
            workers: how many tasks that one runs at once.
            prepared: put once a node.

        Raises:
            InputError: the address is that of Ray Client, which does not stream.
        """
        if "://" in address:
            raise InputError(f"RAY_ADDRESS: got {address!r}, takes HOST:PORT, as `ray start --head` prints it")
        self.address, self.workers, self.prepared = address, workers, prepared
        self.data: Any = None  # their reference
        self.gone: set[str] = set()  # the nodes that were lost

    def __enter__(self) -> Self:
        reach(self.address)
        own = {"num_cpus": self.workers, "_node_ip_address": "127.0.0.1", "include_dashboard": False}
        with tempfile.TemporaryDirectory(prefix="pipeline-") as folder:
            shutil.copytree(PACKAGE, Path(folder) / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
            try:
                ray.init(
                    address=self.address or "local",
                    log_to_driver=False,
                    logging_level="ERROR",
                    # A working folder, unlike a module, also keeps a worker from a checkout of its own.
                    runtime_env={"working_dir": folder, "env_vars": variables()},
                    **({} if self.address else own),
                )
            except (ConnectionError, RuntimeError, ValueError, exceptions.RayError) as error:
                which = f"RAY_ADDRESS={self.address}" if self.address else "Ray on this machine"
                raise InputError(f"{which}: cannot be used: {' '.join(str(error).split())}") from error
        arrays = {name: array for name, array in vars(self.prepared).items() if array is not None}
        self.data = ray.put(arrays)
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()  # ends a cluster that it started, and on another this stage's tasks

    def train(self, planned: Sequence[Stack], listener: Listener, seed: int) -> Iterator[tuple[Stack, list[Fitted]]]:
        """Train each stack as a task, those first that take longest, and again where its worker or node is lost.

        Raises:
            InputError: a worker's results would have other bits, or a stack was lost TRIES times.
        """
        tries = dict.fromkeys(planned, 1)
        order = sorted(planned, key=lambda stack: work(stack, self.prepared.X.shape[1]), reverse=True)
        tasks = {self._submit(stack, seed): RemoteStack(stack) for stack in order}
        try:
            while tasks:
                [streamed], _ = ray.wait(list(tasks), num_returns=1)
                remote = tasks[streamed]
                try:
                    message = unpack(ray.get(next(streamed)))
                except LOST as error:
                    tries[remote.stack] += 1
                    if tries[remote.stack] > TRIES:
                        raise InputError(_lost(remote, error)) from error
                    again = [tasks.pop(streamed).stack, *self._withdraw(tasks)]
                    tasks |= {self._submit(stack, seed): RemoteStack(stack) for stack in again}
                    continue
                if (fits := take(message, remote, listener)) is not None:
                    del tasks[streamed]
                    yield remote.stack, fits
        finally:
            for streamed in tasks:
                ray.cancel(streamed, force=True)

    def _withdraw(self, tasks: dict[Any, RemoteStack]) -> list[Stack]:
        # Takes back what has not begun, if nodes are gone: the cluster's head misses a node only after 15 s, and until
        # then tasks wait for it.
        if new := lost_nodes() - self.gone:
            self.gone |= new
            waiting = [streamed for streamed, remote in tasks.items() if not remote.host]
            for streamed in waiting:
                ray.cancel(streamed, force=True)
            return [tasks.pop(streamed).stack for streamed in waiting]
        return []

    def _submit(self, stack: Stack, seed: int) -> Any:  # noqa: ANN401 - Ray's generator of references
        task = ray.remote(ray_worker.train).options(
            name=f"train {stack.fits[0][0].configuration}",
            num_returns="streaming",
            num_gpus=int(stack.fits[0][0].device == "cuda"),
            max_retries=0,  # Ray would replay the stream, whose parts come by the clock
            scheduling_strategy="SPREAD",
            label_selector={"ray.io/node-id": f"!in({','.join(sorted(self.gone))})"} if self.gone else None,
        )
        return task.remote(pack(Task(stack, seed)), self.data, machine.numeric_tags())


def take(message: Started | Grown | Trained, remote: RemoteStack, listener: Listener) -> list[Fitted] | None:
    """Take what a worker sends; return the fits if that is it.

    Raises:
        InputError: its results would have other bits.
    """
    match message:
        case Started(host, tags):
            remote.host = host
            check(host, tags)
            listener.start(remote.stack)
        case Grown():
            remote.grow(message, listener)
        case Trained(fits):
            return fits
    return None


def reach(address: str) -> None:
    """Refuse an address at which nothing answers; Ray itself would try for minutes, and tell it in six lines.

    Raises:
        InputError: nothing answers there.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return  # none, or one of Ray's own words, such as auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"RAY_ADDRESS={address}: nothing answers there: {error}; start it with: ray start --head"
        ) from error


def lost_nodes() -> set[str]:
    """List the nodes that the cluster counts among its own, but that do not answer."""
    lost = set()
    for node in ray.nodes():
        if node["Alive"]:
            try:
                socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), ANSWER_SECONDS).close()
            except OSError:
                lost.add(node["NodeID"])
    return lost


def variables() -> dict[str, str]:
    """Return the variables that a worker's libraries read when they are loaded, before its first line."""
    forced = {"PIPELINE_KERNELS": kernels.KERNELS} if kernels.KERNELS in FORCED else {}
    return {**kernels.DEFAULTS, **kernels.PINS[kernels.KERNELS], **forced}


def check(host: str, tags: Mapping[str, str]) -> None:
    """Refuse a worker whose results may have other bits than this process's.

    Raises:
        InputError: its architecture, kernels or torch differ.
    """
    own = machine.numeric_tags()
    differing = [f"{key} {tags.get(key, 'missing')} instead of {own[key]}" for key in own if tags.get(key) != own[key]]
    if differing:
        raise InputError(
            f"{host}: a Ray worker there has {', '.join(differing)}, so its runs may have other bits; "
            "install the same there, or take it out of the cluster"
        )


def _lost(remote: RemoteStack, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0]
    where = f", last on {remote.host}" if remote.host else ""
    return f"train {remote.stack.fits[0][0].configuration}: its Ray worker was lost {TRIES} times{where}: {reason}"
