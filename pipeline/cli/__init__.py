"""What each command takes and prints: one file for each command, named after it and loaded when it runs.

A command imports what does the work when it is called: torch, DVC and MLflow take a second each to load.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from pipeline.system import repository

P = ParamSpec("P")
R = TypeVar("R")

RUN = "RUN is a run id of MLflow, a fingerprint, or at least the first 8 digits of either."


def in_repository(command: Callable[P, R]) -> Callable[P, R]:
    """Run a command in the repository's folder, even when it is called in a folder below.

    Declare a path that the user gives as click.Path(resolve_path=True), so that it is relative to the folder where the
    command is called.
    """

    @wraps(command)
    def inside(*arguments: P.args, **options: P.kwargs) -> R:
        repository.enter()
        return command(*arguments, **options)

    return inside
