"""Which engine trains: told by PIPELINE_ENGINE and PIPELINE_WORKERS, or chosen by the work. No param of any stage."""

import os
from collections.abc import Mapping

from pipeline.params import InputError
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.engines import Engine
from pipeline.training.engines.here import Here

ENGINES = ("here", "workers", "ray")


def choose(told: Mapping[str, str], checkpoints: Checkpoints) -> Engine:
    """Choose where stacks train.

    Args:
        told: the environment's variables.
        checkpoints: where stacks resume from and keep their state.

    Raises:
        InputError: PIPELINE_ENGINE or PIPELINE_WORKERS is wrong.
    """
    name, workers = named(told), number(told)
    if name == "ray":
        return cluster(told.get("RAY_ADDRESS", ""), workers)
    if name == "workers":
        raise InputError(f"PIPELINE_ENGINE: got {name!r}, which this version lacks; takes here")
    return Here(checkpoints)


def cluster(address: str, workers: int) -> Engine:
    """Return the engine that trains on a Ray cluster.

    Raises:
        InputError: Ray is not installed, or the address is wrong.
    """
    try:
        from pipeline.training.engines.cluster import Cluster  # noqa: PLC0415 - an extra; 0.5 s
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError(
            "PIPELINE_ENGINE: got 'ray', but Ray is not installed here; run: make ray && . .venv-ray/bin/activate"
        ) from error
    return Cluster(address, workers)


def named(told: Mapping[str, str]) -> str:
    """Return the engine that PIPELINE_ENGINE names; empty if it names none.

    Raises:
        InputError: there is no such engine.
    """
    name = told.get("PIPELINE_ENGINE", "")
    if name and name not in ENGINES:
        raise InputError(f"PIPELINE_ENGINE: got {name!r}, takes {', '.join(ENGINES)}; or unset it")
    return name


def number(told: Mapping[str, str]) -> int:
    """Return how many workers PIPELINE_WORKERS asks for, or as many as this process has cores.

    Raises:
        InputError: it is not a positive number.
    """
    text = told.get("PIPELINE_WORKERS", "")
    if not text:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise InputError(f"PIPELINE_WORKERS: got {text!r}, takes a number from 1 on; or unset it")
    return int(text)
