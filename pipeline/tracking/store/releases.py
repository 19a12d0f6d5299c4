"""What is known of each release of MLflow, and what is lost with one that is not."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import create_engine, inspect, select, table
from sqlalchemy.pool import NullPool
from sqlalchemy.sql import column

from pipeline.tracking.store.location import failing

DATABASES = frozenset({"sqlite", "postgresql", "mysql", "mssql"})  # that MLflow stores in; other stores are servers
PATIENT = {"timeout": 20}  # seconds that SQLite waits for another writer, as with MLflow
REVISION = table("alembic_version", column("version_num"))


@dataclass(frozen=True)
class Release:
    """What fits one release of MLflow.

    schema: the revision of its tables, for which database.py is written. views: whether the browser test has opened
    saved views on its pages, whose format is not public.
    """

    schema: str
    views: bool


# Of 3.18.0 only the schema is known, f4a9b2c7d1e6, and nothing has been tried with it.
RELEASES: Mapping[str, Release] = {"3.17.2": Release("dc11669786a5", views=True)}


def kind(uri: str) -> str:
    """Return the kind of store that an address names, such as sqlite."""
    return uri.split(":", maxsplit=1)[0].split("+", maxsplit=1)[0]


def options(uri: str) -> dict[str, int]:
    """Return how to connect to a database."""
    return PATIENT if kind(uri) == "sqlite" else {}


def schema(uri: str) -> str | None:
    """Read the revision of a database's tables: empty if it has none; None for a server.

    Raises:
        StoreError: the store fails.
    """
    if kind(uri) not in DATABASES:
        return None
    with failing(uri), create_engine(uri, poolclass=NullPool, connect_args=options(uri)).connect() as connection:
        held = (
            connection.scalars(select(REVISION.c.version_num)) if inspect(connection).has_table(REVISION.name) else ()
        )
        return " ".join(sorted(map(str, held)))


def is_known(revision: str) -> bool:
    """Tell whether the tables of a revision are known."""
    return revision in {release.schema for release in RELEASES.values()}


def has_views(version: str) -> bool:
    """Tell whether the saved views fit the pages of a version of MLflow."""
    return version in RELEASES and RELEASES[version].views


def lost(revision: str, version: str) -> str:
    """Say what is lost with a store; empty if nothing is.

    Args:
        revision: of its tables, if it is unknown; else empty.
        version: of the MLflow that shows its pages.
    """
    known = f"this pipeline knows MLflow {', '.join(RELEASES)}"
    slow = f"the store's schema {revision} is unknown, so runs are stored and read slowly, by MLflow's client"
    bare = f"the pages of MLflow {version or '(unknown)'} are unknown, so no saved views are written"
    faults = [*([slow] if revision else []), *([] if has_views(version) else [bare])]
    return f"{'; '.join(faults)} ({known})" if faults else ""
