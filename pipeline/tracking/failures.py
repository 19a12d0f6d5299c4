"""How a store fails: the errors of MLflow, its drivers and the file system as one kind. Does not import MLflow."""

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from sqlalchemy.exc import SQLAlchemyError

from pipeline.system import repository

PATIENCE_SECONDS = float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])  # how long a stage waits for a server
WAIT_SECONDS = 5.0  # how long a command does
REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "401", "403"}


class StoreError(Exception):
    """The store fails; the message hides any password in its address. reason: the store's own message."""

    def __init__(self, uri: str, error: Exception | str) -> None:
        self.reason = repository.without_password(str(error))
        said = f"MLflow's store {uri} fails: {error}"
        if isinstance(error, Exception) and is_refusal(error):
            said = (
                f"MLflow's store {uri} refuses access; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
                f"or MLFLOW_TRACKING_TOKEN: {error}"
            )
        elif isinstance(error, ImportError):
            said += "; install the package that this kind of store needs"
        super().__init__(repository.without_password(said))


def errors() -> tuple[type[Exception], ...]:
    """List the errors of a store; MLflow's own only once it is loaded, as nothing else raises them."""
    loaded = sys.modules.get("mlflow.exceptions")
    return (SQLAlchemyError, sqlite3.Error, OSError, ImportError, *([loaded.MlflowException] if loaded else []))


@contextmanager
def failing(uri: str) -> Iterator[None]:
    """Turn errors of MLflow, its drivers and the file system into one kind.

    Raises:
        StoreError: any of them.
    """
    try:
        yield
    except errors() as error:
        raise StoreError(uri, error) from error


def is_refusal(error: Exception) -> bool:
    """Tell whether a server answered 401 or 403, with or without MLflow's error code."""
    return str(getattr(error, "error_code", "")) in REFUSED or http_status(error) in {401, 403}


def http_status(error: Exception) -> int:
    """Find the HTTP status of a failed request, 0 for none: of a JSON answer, MLflow keeps only the text."""
    places = [vars(error), *(frame.f_locals for frame, _ in walk_tb(error.__traceback__))]
    statuses = (getattr(place.get("response"), "status_code", None) for place in places)
    return next((status for status in statuses if isinstance(status, int)), 0)
