"""The store as a database whose schema is known: plain selects and inserts. Does not import MLflow, which takes 1 s.

MLflow's client asks a database for a page of runs in six queries and makes an object of every cell, 0.6 ms a run; these
selects take a tenth of that. It writes a run row by row in 25 ms; here the runs of a whole stack are stored in one
transaction, 2 ms a run, as the same rows. Values are within MLflow's limits: values.text cuts longer ones. The schema
stays as it is.
"""

import math
import os
import shutil
import sqlite3
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from importlib.metadata import version
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    create_engine,
    delete,
    exists,
    false,
    func,
    insert,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import column, table
from sqlalchemy.sql.expression import ColumnElement, FromClause, TableClause

from pipeline.system.files import replacing
from pipeline.tracking.runs import (
    KIND,
    RUNNING,
    Dataset,
    Experiment,
    Point,
    StoredRun,
    known_tags,
    milliseconds,
    stored_key,
)
from pipeline.tracking.store import releases
from pipeline.tracking.store.backend import PAGE, Change, Filter, New, Version
from pipeline.tracking.store.location import (
    StoreError,
    artifact_folder,
    artifact_root,
    count_rows,
    failing,
    local_path,
    write_file,
)

READ_AT_ONCE = 500  # runs a query


def columns_of(name: str, *columns: str) -> TableClause:
    """Describe a table by its name and those of its columns that are read or written."""
    return table(name, *map(column, columns))


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
ALIASES = columns_of("registered_model_aliases", "workspace", "name", "alias", "version")
VERSIONS = columns_of("model_versions", "workspace", "name", "version", "run_id", "source")
DIALECTS: Mapping[str, Callable[[TableClause], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
STYLES: Mapping[str, Any] = {"sqlite": "qmark", "postgresql": "format"}  # of a driver's values by position
WRITTEN_AT_ONCE = 200  # runs whose rows are made at a time: those of 10,000 take more than a GB
NEW_RUNS, NEW_PARAMS, NEW_DATASETS, NEW_INPUTS, NEW_INPUT_TAGS = map(
    insert, (RUNS, PARAMS, DATASETS, INPUTS, INPUT_TAGS)
)
Values = dict[str, Any]
KEPT = Path(sys.prefix) / f"share/pipeline/mlflow-{version('mlflow')}.db"  # made by this MLflow, which others upgrade
DEFAULT = "UPDATE experiments SET artifact_location = ?, creation_time = ?, last_update_time = ?"


class Database:
    """The tables of an MLflow store whose schema is known; `Backend` says what each method does."""

    schema = ""  # it is known

    def __init__(self, uri: str) -> None:
        """Open the store at `uri`: SQLite or PostgreSQL."""
        self.uri = uri
        self.engine = create_engine(uri, connect_args=releases.options(uri))
        insert_into = DIALECTS[self.engine.dialect.name]
        self._points = insert_into(METRICS).on_conflict_do_nothing()
        latest, own = insert_into(LATEST), ["key", "run_uuid"]
        new, held = (tuple_(place.step, place.timestamp, place.value) for place in (latest.excluded, LATEST.c))
        changed = {name: latest.excluded[name] for name in ("value", "timestamp", "step", "is_nan")}
        self._latest = latest.on_conflict_do_update(index_elements=own, set_=changed, where=new > held)
        self._tags, self._experiment_tags = (
            written.on_conflict_do_update(index_elements=["key", owner], set_={"value": written.excluded.value})
            for written, owner in (
                (insert_into(TAGS), "run_uuid"),
                (insert_into(EXPERIMENT_TAGS), "experiment_id"),
            )
        )

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with failing(self.uri), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with failing(self.uri), self.engine.begin() as connection:
            yield connection

    def experiment(self, name: str) -> Experiment | None:
        """Find an experiment by name, even if it was deleted."""
        fields = EXPERIMENTS.c
        statement = select(fields.experiment_id, fields.artifact_location, fields.lifecycle_stage)
        with self._reading() as connection:
            found = rows(connection, statement.where(fields.name == name, fields.workspace == "default"))
            if not found:
                return None
            [(number, location, stage)] = found
            own = select(EXPERIMENT_TAGS.c.key, EXPERIMENT_TAGS.c.value)
            tags = dict(rows(connection, own.where(EXPERIMENT_TAGS.c.experiment_id == number)))
        return Experiment(name, str(number), location, stage != "active", tags)

    def create_experiment(self, name: str) -> None:
        """Create an experiment with its artifacts in the repository, as MLflow's `SqlAlchemyStore` does."""
        at = milliseconds(time.time())
        own: Values = {"name": name, "lifecycle_stage": "active", "artifact_location": artifact_root()}
        own |= {"workspace": "default", "creation_time": at, "last_update_time": at}
        with self._writing() as connection:
            connection.execute(insert(EXPERIMENTS).values(own))
            made = select(EXPERIMENTS.c.experiment_id)
            made_id = connection.scalar(made.where(EXPERIMENTS.c.name == name, EXPERIMENTS.c.workspace == "default"))
            tags = [{"experiment_id": made_id, "key": key, "value": value} for key, value in KIND.items()]
            connection.execute(insert(EXPERIMENT_TAGS), tags)

    def tag_experiment(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of an experiment."""
        own = {"experiment_id": int(experiment_id)}
        with self._writing() as connection:
            add(connection, self._experiment_tags, [{**own, "key": key, "value": value} for key, value in tags.items()])

    def search(self, experiment_id: str, wanted: Filter, page: int = PAGE) -> Iterator[StoredRun]:
        """Find an experiment's runs: first their ids, then the rest when it is asked for, a few hundred at a time."""
        del page
        with self._reading() as connection:
            ids = [run_id for run_id, *_ in rows(connection, chosen(experiment_id, wanted))]
        return self.runs(ids)

    def with_fingerprints(self, experiment_id: str, fingerprints: Collection[str]) -> Iterator[StoredRun]:
        """Find the runs with any of the fingerprints, the earliest first."""
        own, fingerprints = TAGS.c, frozenset(fingerprints)
        statement = chosen(experiment_id, Filter(earliest=True)).add_columns(own.value)
        statement = statement.join(TAGS, and_(own.run_uuid == RUNS.c.run_uuid, own.key == stored_key("fingerprint")))
        with self._reading() as connection:  # MLflow's tables have no index by value: to read all takes 2 µs a run
            ids = [run_id for run_id, *_, value in rows(connection, statement) if value in fingerprints]
        return (run for run in self.runs(ids) if run.tags.get("role") == "run")

    def runs(self, ids: Iterable[str]) -> Iterator[StoredRun]:
        """Read runs by their ids, in this order; skip ids without a run."""
        for some in batches(ids):
            with self._reading() as connection:
                yield from read(connection, some)

    def run(self, run_id: str) -> StoredRun:
        """Read a run."""
        found = next(self.runs([run_id]), None)
        if found is None:
            raise StoreError(self.uri, f"Run with id={run_id} not found")  # MLflow's words
        return found

    def histories(self, ids: Iterable[str], key: str) -> Mapping[str, list[Point]]:
        """Read all values of a metric of runs."""
        found: dict[str, list[Point]] = defaultdict(list)
        own = METRICS.c
        statement = select(own.run_uuid, own.step, own.value, own.timestamp, own.is_nan).where(own.key == key)
        for some in batches(ids):
            with self._reading() as connection:
                for run_id, step, value, at, is_nan in rows(connection, statement.where(own.run_uuid.in_(some))):
                    found[run_id].append(Point(step, math.nan if is_nan else value, at))
        return found

    def create(self, experiment: Experiment, runs: Sequence[New]) -> list[StoredRun]:
        """Create runs in one transaction."""
        number = int(experiment.experiment_id)
        made = [created(experiment.artifact_location, new) for new in runs]
        with self._writing() as connection:
            self._check_active(connection, EXPERIMENTS, EXPERIMENTS.c.experiment_id, {number})
            add(connection, NEW_RUNS, [run_row(run, number) for run in made])
            changes = [Change(run.run_id, run.params, run.datasets, tags=run.tags) for run in made]
            describe(connection, changes)
            self._tag(connection, changes)
        return made

    def write(self, changes: Iterable[Change]) -> None:
        """Carry out changes in one transaction; files come first."""
        rest = iter(changes)
        if not (some := list(islice(rest, WRITTEN_AT_ONCE))):
            return
        with self._writing() as connection:
            while some:
                self._check_active(connection, RUNS, RUNS.c.run_uuid, {change.run_id for change in some})
                for change in some:
                    for name, content in change.files.items():
                        self._upload(change.folder, name, content)
                describe(connection, some)
                self._measure(connection, some)
                self._tag(connection, some)
                conclude(connection, some)
                some = list(islice(rest, WRITTEN_AT_ONCE))

    def _check_active(
        self, connection: Connection, table: TableClause, key: ColumnElement[Any], ids: Collection[object]
    ) -> None:
        # As MLflow's client, refuses to write a run, or into an experiment, that somebody deleted.
        active = set(connection.scalars(select(key).where(key.in_(ids), table.c.lifecycle_stage == "active")))
        if gone := sorted(map(str, set(ids) - active)):
            raise StoreError(self.uri, f"{table.name}: {', '.join(gone)}: missing or deleted")

    def _measure(self, connection: Connection, changes: Sequence[Change]) -> None:
        points: list[Values] = []
        last: list[Values] = []
        for change in changes:
            for key in dict.fromkeys(key for key, _ in change.points):
                own = [point for other, point in change.points if other == key]
                points += [measured(change.run_id, key, point) for point in own]
                last.append(measured(change.run_id, key, max(own, key=Point.rank)))
        add(connection, self._points, points)
        add(connection, self._latest, last)

    def _tag(self, connection: Connection, changes: Sequence[Change]) -> None:
        tags = ((change.run_id, stored_key(key), value) for change in changes for key, value in change.tags.items())
        add(connection, self._tags, [named(*one) for one in tags])
        for run_id, key in ((change.run_id, key) for change in changes for key in change.dropped):
            connection.execute(delete(TAGS).where(TAGS.c.run_uuid == run_id, TAGS.c.key == stored_key(key)))

    def _upload(self, folder_uri: str, name: str, content: bytes) -> None:
        if folder := local_path(folder_uri):
            write_file(folder, name, content)
        else:
            from pipeline.tracking.store.client import upload  # noqa: PLC0415 - loads MLflow, 1 s

            upload(folder_uri, name, content)

    def download(self, folder_uri: str, name: str, most: int | None) -> bytes:
        """Read an artifact that is not on this machine."""
        from pipeline.tracking.store.client import download  # noqa: PLC0415 - loads MLflow, 1 s

        with failing(self.uri):
            return download(lambda request, *arguments: request(*arguments), folder_uri, name, most)

    def settle(self, experiment_id: str, owner: Mapping[str, str], known: Collection[str]) -> None:
        """Let SQLite estimate the sizes of MLflow's tables; each run was created once."""
        del experiment_id, owner, known
        count_rows(self.uri)

    def served(self, name: str, alias: str) -> Version | None:
        """Read the version that an alias names, without its tags; it is unknown if models are kept elsewhere."""
        if os.environ.get("MLFLOW_REGISTRY_URI"):
            return None
        one, of = ALIASES.c, VERSIONS.c
        same = and_(*(one[key] == of[key] for key in ("workspace", "name", "version")))
        statement = select(of.version, of.run_id, of.source).select_from(VERSIONS).join(ALIASES, same)
        with self._reading() as connection:
            place = one.workspace == "default", one.name == name, one.alias == alias
            found = rows(connection, statement.where(*place))
        return Version(found[0][0], found[0][1] or "", {}, found[0][2] or "") if found else None

    def mlflow_version(self) -> str:
        """Return the version of MLflow here."""
        return version("mlflow")


def rows(connection: Connection, statement: Select[Any]) -> list[tuple[Any, ...]]:
    """Return a query's rows as the driver makes them; SQLAlchemy would make an object of each, in twice the time."""
    cursor = connection.execute(statement).cursor
    assert cursor is not None
    return list(cursor.fetchall())


def batches(ids: Iterable[str]) -> Iterator[list[str]]:
    """Split ids into as many as one query takes."""
    rest = iter(ids)
    while some := list(islice(rest, READ_AT_ONCE)):
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
    tags, params = (
        grouped(rows(connection, select(own.run_uuid, own.key, own.value).where(own.run_uuid.in_(ids))))
        for own in (TAGS.c, PARAMS.c)
    )
    last = LATEST.c
    latest = rows(connection, select(last.run_uuid, last.key, last.value, last.is_nan).where(last.run_uuid.in_(ids)))
    metrics = grouped((run_id, key, math.nan if is_nan else value) for run_id, key, value, is_nan in latest)
    used = datasets(connection, ids)
    for run_id in ids:
        if run_id in found:
            name, status, start, end, place = found[run_id]
            title = str(name or tags[run_id].get("mlflow.runName") or name)  # as MLflow's client names it
            held = known_tags(tags[run_id]), params[run_id], metrics[run_id], tuple(used[run_id])
            yield StoredRun(run_id, title, status, start, end, str(place), *held)


def grouped(found: Iterable[tuple[Any, ...]]) -> dict[str, dict[str, Any]]:
    """Group rows of an id, a key and a value: id -> key -> value; an id without any has no values."""
    values: dict[str, dict[str, Any]] = defaultdict(dict)
    for owner, key, value in found:
        values[owner][key] = value
    return values


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
    marks = INPUT_TAGS.c
    named = select(marks.input_uuid, marks.name, marks.value)
    asked = (named.where(marks.input_uuid.in_(some)) for some in batches(input_id for _, input_id, _ in inputs))
    tags = grouped(row for statement in asked for row in rows(connection, statement))
    found: dict[str, list[Dataset]] = defaultdict(list)
    for run_id, input_id, source in inputs:
        if source in described:
            name, digest, kind, place, schema, profile = described[source]
            found[run_id].append(Dataset(name, digest, kind, place, schema or "", profile or "", tags[input_id]))
    return found


def created(location: str, new: New) -> StoredRun:
    """Return a new run as it will be read, with an id of its own."""
    run_id = uuid.uuid4().hex
    place, tags = artifact_folder(location, run_id), known_tags({**new.tags, "mlflow.runName": new.title})
    return StoredRun(run_id, new.title, RUNNING, new.begun, None, place, tags, new.params, {}, tuple(new.datasets))


def run_row(run: StoredRun, experiment_id: int) -> Values:
    """Return a new run's row, as MLflow's `SqlAlchemyStore.create_run` makes it."""
    kept = {"run_uuid": run.run_id, "name": run.title, "artifact_uri": run.artifact_uri, "experiment_id": experiment_id}
    kept |= {"user_id": run.tags.get("mlflow.user", "unknown"), "status": run.status, "start_time": run.start}
    unused: Values = {"source_name": "", "entry_point_name": "", "source_version": "", "end_time": None}
    return kept | unused | {"source_type": "UNKNOWN", "lifecycle_stage": "active", "deleted_time": None}


def named(run_id: str, key: str, value: str) -> Values:
    """Return the row of a param or tag."""
    return {"run_uuid": run_id, "key": key, "value": value}


def measured(run_id: str, key: str, point: Point) -> Values:
    """Return the row of a metric's point, which is finite."""
    step, value, at = point
    return {"run_uuid": run_id, "key": key, "value": value, "timestamp": at, "step": step, "is_nan": False}


def add(connection: Connection, statement: Any, rows: Sequence[Values]) -> None:  # noqa: ANN401
    """Insert rows, if there are any, all with the same keys.

    They go to the driver as they are: SQLAlchemy would look at every value, in more time than the database takes.
    """
    if rows:
        dialect: Any = type(connection.dialect)
        written, names = compiled(statement, dialect, tuple(rows[0]))
        connection.exec_driver_sql(written, list(map(itemgetter(*names), rows)))


@cache
def compiled(statement: Any, dialect: Any, keys: tuple[str, ...]) -> tuple[str, list[str]]:  # noqa: ANN401
    """Write a statement in SQL, whose values go by position; return the order of its keys, too."""
    made = statement.compile(dialect=dialect(paramstyle=STYLES[dialect.name]), column_keys=list(keys))
    return str(made), made.positiontup


def dataset_ids(connection: Connection, experiment: int) -> dict[tuple[str, str], str]:
    """Find an experiment's datasets: name and digest -> id."""
    kept = DATASETS.c
    rows = connection.execute(select(kept.name, kept.digest, kept.dataset_uuid).where(kept.experiment_id == experiment))
    return {(name, digest): dataset_id for name, digest, dataset_id in rows}


def missing_datasets(connection: Connection, experiment: int, used: Sequence[tuple[str, Dataset]]) -> list[Values]:
    """Return the rows of the datasets that an experiment lacks; the first of a name and digest counts."""
    held = dataset_ids(connection, experiment)
    lacking = {(one.name, one.digest): one for _, one in reversed(used) if (one.name, one.digest) not in held}
    return [
        {
            "dataset_uuid": uuid.uuid4().hex,
            "experiment_id": experiment,
            "name": one.name,
            "digest": one.digest,
            "dataset_source_type": one.source_type,
            "dataset_source": one.source,
            "dataset_schema": one.schema or None,
            "dataset_profile": one.profile,
        }
        for one in lacking.values()
    ]


def missing_inputs(
    connection: Connection, links: Sequence[tuple[str, str, Dataset]]
) -> tuple[list[Values], list[Values]]:
    """Return the rows that link runs with their datasets, and those of the links' tags, without links that there are.

    Args:
        connection: to the store.
        links: each a run's id, a dataset's, and the dataset.
    """
    kept, runs = INPUTS.c, {run_id for run_id, *_ in links}
    there = select(kept.destination_id, kept.source_id).where(kept.destination_type == "RUN")
    held = {(run, dataset) for run, dataset in connection.execute(there.where(kept.destination_id.in_(runs)))}
    inputs, tags = [], []
    for run_id, dataset_id, one in links:
        if (run_id, dataset_id) not in held:
            held.add((run_id, dataset_id))
            ends = {"source_type": "DATASET", "source_id": dataset_id, "destination_type": "RUN"}
            inputs.append({"input_uuid": uuid.uuid4().hex, **ends, "destination_id": run_id})
            own = {"input_uuid": inputs[-1]["input_uuid"]}
            tags += [own | {"name": name, "value": value} for name, value in one.tags.items()]
    return inputs, tags


def describe(connection: Connection, changes: Sequence[Change]) -> None:
    """Store params and datasets."""
    params = [named(change.run_id, *pair) for change in changes for pair in change.params.items()]
    add(connection, NEW_PARAMS, params)
    if used := [(change.run_id, one) for change in changes for one in change.datasets]:
        of = select(RUNS.c.experiment_id).where(RUNS.c.run_uuid == used[0][0])
        experiment = connection.execute(of).scalar_one()
        add(connection, NEW_DATASETS, missing_datasets(connection, experiment, used))
        ids = dataset_ids(connection, experiment)
        links = [(run_id, ids[one.name, one.digest], one) for run_id, one in used]
        inputs, tags = missing_inputs(connection, links)
        add(connection, NEW_INPUTS, inputs)
        add(connection, NEW_INPUT_TAGS, tags)


def conclude(connection: Connection, changes: Sequence[Change]) -> None:
    """Set statuses and ends."""
    own = update(RUNS).where(RUNS.c.run_uuid == bindparam("of"))
    own = own.values(status=bindparam("to"), end_time=func.coalesce(bindparam("at", type_=BigInteger), RUNS.c.end_time))
    if rows := [{"of": change.run_id, "to": change.status, "at": change.end} for change in changes if change.status]:
        connection.execute(own, rows)


def create_empty(file: Path) -> None:
    """Create a missing SQLite store with its tables, whole or not at all; call it under the lock.

    If several processes let MLflow create the tables, they race and fail; if one is killed, half of them are left.
    """
    if not file.exists():
        with replacing(file) as temporary:
            if KEPT.exists():
                copy(temporary)
            else:
                from pipeline.tracking.store.client import Client  # noqa: PLC0415 - loads MLflow, 1 s

                Client(f"sqlite:///{temporary}", 0)
    with closing(sqlite3.connect(file)) as connection:
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=WAL")  # stays with the file; readers no longer block the writer


def copy(file: Path) -> None:
    """Copy the store that is kept; its one experiment is MLflow's own, of the folder and the time where it was made."""
    shutil.copyfile(KEPT, file)
    now = milliseconds(time.time())
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(DEFAULT, (str(Path.cwd() / "mlruns/0"), now, now))


if __name__ == "__main__":
    create_empty(KEPT)
