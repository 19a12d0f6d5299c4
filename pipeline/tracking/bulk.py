"""Reads many runs at once from a store's tables, by plain selects. Does not import MLflow, which takes a second.

MLflow's client asks a database for a page of runs in six queries, and makes an object of every cell: 0.6 ms a run, of
which these selects take a tenth. They name the tables' columns, so they serve only a store whose schema they know; any
other, and every server, is read through the client.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Self

from sqlalchemy import Connection, Engine, Select, and_, case, create_engine, exists, false, inspect, select, true
from sqlalchemy.sql import column, table
from sqlalchemy.sql.expression import ColumnElement, FromClause, TableClause

from pipeline.tracking.datasets import Dataset
from pipeline.tracking.failures import failing
from pipeline.tracking.filters import Filter
from pipeline.tracking.runs import Experiment, Point, StoredRun, known_tags, stored_key

DATABASES = {"sqlite", "postgresql", "mysql", "mssql"}  # that MLflow stores in; others are servers
READ = {"sqlite", "postgresql"}
SCHEMAS = {"dc11669786a5"}  # the revisions of MLflow's tables that are known: of MLflow 3.17
AT_ONCE = 500  # runs a query
PATIENT = {"timeout": 20}  # seconds that SQLite waits for another writer, as with MLflow


def columns_of(name: str, *columns: str) -> TableClause:
    """Describe a table by its name and those of its columns that are read or written."""
    return table(name, *map(column, columns))


REVISION = columns_of("alembic_version", "version_num")
EXPERIMENTS = columns_of(
    *("experiments", "experiment_id", "name", "artifact_location", "lifecycle_stage", "workspace"),
    *("creation_time", "last_update_time"),
)
EXPERIMENT_TAGS = columns_of("experiment_tags", "experiment_id", "key", "value")
RUNS = columns_of(
    *("runs", "run_uuid", "name", "status", "start_time", "end_time", "artifact_uri", "experiment_id"),
    *("lifecycle_stage", "user_id", "source_type", "source_name", "entry_point_name", "source_version"),
    "deleted_time",
)
TAGS, PARAMS = (columns_of(name, "run_uuid", "key", "value") for name in ("tags", "params"))
LATEST = columns_of("latest_metrics", "run_uuid", "key", "value", "is_nan", "step", "timestamp")
METRICS = columns_of("metrics", "run_uuid", "key", "value", "is_nan", "step", "timestamp")
INPUTS = columns_of("inputs", "input_uuid", "source_type", "source_id", "destination_type", "destination_id")
INPUT_TAGS = columns_of("input_tags", "input_uuid", "name", "value")
DATASETS = columns_of(
    *("datasets", "dataset_uuid", "name", "digest", "dataset_source_type", "dataset_source", "dataset_schema"),
    *("dataset_profile", "experiment_id"),
)


def kind(uri: str) -> str:
    """Return the kind of store that an address names, such as sqlite."""
    return uri.split(":", maxsplit=1)[0].split("+", maxsplit=1)[0]


def has_tables(uri: str) -> bool:
    """Tell whether a store has the tables that MLflow creates on the first connection; a server does.

    Raises:
        StoreError: the store fails.
    """
    if kind(uri) not in DATABASES:
        return True
    with failing(uri):
        engine = create_engine(uri)
        try:
            return bool(inspect(engine).has_table("experiments"))
        finally:
            engine.dispose()


class Bulk:
    """The tables of a store whose schema is known."""

    def __init__(self, uri: str, engine: Engine) -> None:
        """Read the store at `uri`; `of` tells whether it can be read."""
        self.uri, self.engine = uri, engine

    @classmethod
    def of(cls, uri: str) -> Self | None:
        """Open a store's tables; None if they cannot be read in this way.

        Raises:
            StoreError: the store fails.
        """
        if kind(uri) not in READ:
            return None
        bulk = cls(uri, create_engine(uri, connect_args=PATIENT if kind(uri) == "sqlite" else {}))
        with bulk._connect() as connection:
            if not inspect(connection).has_table(REVISION.name):
                return None
            revisions = {revision for (revision,) in rows(connection, select(REVISION))}
        return bulk if revisions and revisions <= SCHEMAS else None

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        with failing(self.uri), self.engine.connect() as connection:
            yield connection

    def select(self, statement: Select[Any]) -> list[tuple[Any, ...]]:
        """Return a query's rows."""
        with self._connect() as connection:
            return rows(connection, statement)

    def experiment(self, name: str) -> Experiment | None:
        """Find an experiment by name, even if it was deleted."""
        fields = EXPERIMENTS.c
        statement = select(fields.experiment_id, fields.artifact_location, fields.lifecycle_stage)
        with self._connect() as connection:
            found = rows(connection, statement.where(fields.name == name, fields.workspace == "default"))
            if not found:
                return None
            [(number, location, stage)] = found
            own = select(EXPERIMENT_TAGS.c.key, EXPERIMENT_TAGS.c.value)
            tags = dict(rows(connection, own.where(EXPERIMENT_TAGS.c.experiment_id == number)))
        return Experiment(name, str(number), location, stage != "active", tags)

    def search(self, experiment_id: str, wanted: Filter) -> Iterator[StoredRun]:
        """Find an experiment's runs; their rest is read when it is asked for, a few hundred at a time."""
        with self._connect() as connection:
            ids = [run_id for run_id, *_ in rows(connection, chosen(experiment_id, wanted))]
        return self.runs(ids)

    def with_tag(self, experiment_id: str, key: str, values: Collection[str]) -> dict[str, list[str]]:
        """Find the runs whose tag has one of many values: value -> ids, the earliest first."""
        statement = chosen(experiment_id, Filter(earliest=True)).add_columns(TAGS.c.value)
        statement = statement.join(TAGS, and_(TAGS.c.run_uuid == RUNS.c.run_uuid, TAGS.c.key == stored_key(key)))
        found: dict[str, list[str]] = {}
        with self._connect() as connection:  # MLflow's tables have no index by value: to read all takes 2 µs a run
            for run_id, *_, value in rows(connection, statement):
                if value in values:
                    found.setdefault(value, []).append(run_id)
        return found

    def runs(self, ids: Iterable[str]) -> Iterator[StoredRun]:
        """Read runs by their ids, in this order, without those that there are not."""
        for some in batches(ids):
            with self._connect() as connection:
                yield from read(connection, some)

    def histories(self, ids: Iterable[str], key: str) -> dict[str, list[Point]]:
        """Read all values of a metric of many runs: id -> points; a run without any is missing."""
        found: dict[str, list[Point]] = defaultdict(list)
        own = METRICS.c
        statement = select(own.run_uuid, own.step, own.value, own.timestamp, own.is_nan).where(own.key == key)
        for some in batches(ids):
            with self._connect() as connection:
                for run_id, step, value, at, is_nan in rows(connection, statement.where(own.run_uuid.in_(some))):
                    found[run_id].append(Point(step, math.nan if is_nan else value, at))
        return found


def rows(connection: Connection, statement: Select[Any]) -> list[tuple[Any, ...]]:
    """Return a query's rows as the driver makes them; SQLAlchemy would make an object of each, in twice the time."""
    cursor = connection.execute(statement).cursor
    assert cursor is not None
    return list(cursor.fetchall())


def batches(ids: Iterable[str]) -> Iterator[list[str]]:
    """Split ids into as many as one query takes."""
    rest = iter(ids)
    while some := list(islice(rest, AT_ONCE)):
        yield some


def chosen(experiment_id: str, wanted: Filter) -> Select[Any]:
    """Select the ids of the runs that are meant, in their order; deleted ones are not."""
    own = RUNS.c
    place, order = [own.experiment_id == int(experiment_id), own.lifecycle_stage == "active"], []
    place += [own.status == wanted.status] if wanted.status else []
    place += [own.run_uuid.startswith(wanted.id_start)] if wanted.id_start else []
    place += (
        [tagged("fingerprint", TAGS.c.value.startswith(wanted.fingerprint_start))] if wanted.fingerprint_start else []
    )
    place += [tagged(key, TAGS.c.value == value) for key, value in wanted.tags.items()]
    source: FromClause = RUNS
    for number, (key, more) in enumerate(wanted.best.items()):
        metric = LATEST.alias(f"metric{number}")
        joined = and_(metric.c.run_uuid == own.run_uuid, metric.c.key == key)
        source = source.join(metric, joined, isouter=number > 0)
        place += [metric.c.value > -1e308, metric.c.is_nan == false()] if number == 0 else []
        value = metric.c.value
        order += [case((metric.c.is_nan == true(), 1), (value.is_(None), 2), else_=0), value.desc() if more else value]
    start = own.start_time
    order += [case((start.is_(None), 1), else_=0), start if wanted.earliest else start.desc(), own.run_uuid]
    return select(own.run_uuid).select_from(source).where(*place).order_by(*order)


def tagged(key: str, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Tell whether a run has a tag whose value meets a condition."""
    return exists().where(TAGS.c.run_uuid == RUNS.c.run_uuid, TAGS.c.key == stored_key(key), condition)


def read(connection: Connection, ids: Sequence[str]) -> Iterator[StoredRun]:
    """Read runs by their ids, in this order."""
    fields = RUNS.c
    own = select(fields.run_uuid, fields.name, fields.status, fields.start_time, fields.end_time, fields.artifact_uri)
    found = {run_id: rest for run_id, *rest in rows(connection, own.where(fields.run_uuid.in_(ids)))}
    tags, params = (texts(connection, source, ids) for source in (TAGS, PARAMS))
    metrics, used = last_values(connection, ids), datasets(connection, ids)
    for run_id in ids:
        if run_id in found:
            name, status, start, end, place = found[run_id]
            title = str(name or tags[run_id].get("mlflow.runName") or name)  # as MLflow's client names it
            held = known_tags(tags[run_id]), params[run_id], metrics[run_id], tuple(used[run_id])
            yield StoredRun(run_id, title, status, start, end, str(place), *held)


def texts(connection: Connection, source: TableClause, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read tags or params: id -> key -> value."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    own = source.c
    for run_id, key, value in rows(connection, select(own.run_uuid, own.key, own.value).where(own.run_uuid.in_(ids))):
        found[run_id][key] = value
    return found


def last_values(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, float]]:
    """Read the last value of each metric: id -> key -> value."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    own = LATEST.c
    statement = select(own.run_uuid, own.key, own.value, own.is_nan).where(own.run_uuid.in_(ids))
    for run_id, key, value, is_nan in rows(connection, statement):
        found[run_id][key] = math.nan if is_nan else value
    return found


def datasets(connection: Connection, ids: Sequence[str]) -> dict[str, list[Dataset]]:
    """Read which datasets runs use: id -> datasets; runs of a sweep share them."""
    uses, of = INPUTS.c, DATASETS.c
    used = select(uses.destination_id, uses.input_uuid, uses.source_id)
    used = used.where(uses.destination_type == "RUN", uses.destination_id.in_(ids))
    inputs = rows(connection, used)
    fields = of.name, of.digest, of.dataset_source_type, of.dataset_source, of.dataset_schema, of.dataset_profile
    described: dict[str, list[str]] = {}
    for some in batches(dict.fromkeys(source for *_, source in inputs)):
        statement = select(of.dataset_uuid, *fields).where(of.dataset_uuid.in_(some))
        described |= {source: rest for source, *rest in rows(connection, statement)}
    tags: dict[str, dict[str, str]] = defaultdict(dict)
    named = select(INPUT_TAGS.c.input_uuid, INPUT_TAGS.c.name, INPUT_TAGS.c.value)
    for some in batches(input_id for _, input_id, _ in inputs):
        for input_id, key, value in rows(connection, named.where(INPUT_TAGS.c.input_uuid.in_(some))):
            tags[input_id][key] = value
    found: dict[str, list[Dataset]] = defaultdict(list)
    for run_id, input_id, source in inputs:
        if source in described:
            name, digest, kind, place, schema, profile = described[source]
            found[run_id].append(Dataset(name, digest, kind, place, schema or "", profile or "", tags[input_id]))
    return found
