"""Which engine trains: the one that PIPELINE_ENGINE and PIPELINE_WORKERS ask for, or one chosen by the work."""

import sys
from collections.abc import Mapping, Sequence

from pipeline.errors import InputError
from pipeline.execution.checkpoints import Checkpoints
from pipeline.execution.cost import STEP_SECONDS, work
from pipeline.execution.engine import Engine, Here
from pipeline.execution.processes import Workers
from pipeline.system import machine
from pipeline.table.prepared import Prepared
from pipeline.training.stacks import Stack

ENGINES = ("here", "workers", "ray")
WORTH_SECONDS = 0.6  # of training, by STEP_SECONDS; at 0.8, two workers save a third, and from 0.4 down nothing


def choose(
    environment: Mapping[str, str], planned: Sequence[Stack], prepared: Prepared, checkpoints: Checkpoints
) -> Engine:
    """Choose where stacks train.

    Args:
        environment: its variables.
        planned: the stacks; those of cuda train in this process.
        prepared: the data.
        checkpoints: where stacks resume from and keep their state.

    Raises:
        InputError: PIPELINE_ENGINE or PIPELINE_WORKERS is wrong.
    """
    name, asked = _named(environment), _workers(environment)  # empty and 0 if it leaves that open
    if name == "ray":
        return cluster(environment.get("RAY_ADDRESS", ""), asked or machine.cores(), prepared)
    count = asked or min(machine.cores(), len(planned))
    seconds = sum(work(stack, prepared.X.shape[1]) for stack in planned) * STEP_SECONDS
    worth = seconds > WORTH_SECONDS and sys.platform == "linux"
    on_cpu = all(stack.fits[0][0].device == "cpu" for stack in planned)
    if on_cpu and name != "here" and (name or asked or (worth and count > 1)):
        return Workers(count, prepared, checkpoints)
    return Here(prepared, checkpoints)


def cluster(address: str, workers: int, prepared: Prepared) -> Engine:
    """Return the engine that trains on a Ray cluster.

    Raises:
        InputError: Ray is not installed, or the address is wrong.
    """
    try:
        from pipeline.execution.ray_cluster import Cluster  # noqa: PLC0415 - an extra; 0.5 s
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError(
            "PIPELINE_ENGINE: got 'ray', but Ray is not installed here; run: make ray && . .venv-ray/bin/activate"
        ) from error
    return Cluster(address, workers, prepared)


def _named(environment: Mapping[str, str]) -> str:
    name = environment.get("PIPELINE_ENGINE", "")
    if name and name not in ENGINES:
        raise InputError(f"PIPELINE_ENGINE: got {name!r}, takes {', '.join(ENGINES)}; or unset it")
    return name


def _workers(environment: Mapping[str, str]) -> int:
    text = environment.get("PIPELINE_WORKERS", "")
    if text and not (text.isascii() and text.isdecimal() and 0 < int(text) <= 1024):
        raise InputError(f"PIPELINE_WORKERS: got {text!r}, takes a number from 1 to 1024; or unset it")
    return int(text or 0)
