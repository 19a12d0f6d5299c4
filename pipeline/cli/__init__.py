"""What each command takes and prints: one file for each family of commands, loaded when one of them runs.

The work is done in pipeline/commands and pipeline/tracking, which a command imports when it is called: torch, DVC and
MLflow take a second each to load.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from pipeline.system import repository

P = ParamSpec("P")
R = TypeVar("R")


def in_repository(command: Callable[P, R]) -> Callable[P, R]:
    """Run a command in the repository's folder, from whichever folder below it was called.

    Declare a path that a user gives as click.Path(resolve_path=True): it stays relative to where he is.
    """

    @wraps(command)
    def inside(*arguments: P.args, **options: P.kwargs) -> R:
        repository.enter()
        return command(*arguments, **options)

    return inside
