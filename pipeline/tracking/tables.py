"""Writes the runs of a whole stack in one transaction, as rows of MLflow's own tables. Does not import MLflow.

Their schema stays as it is, and the rows are those that MLflow's client would have made, which takes 25 ms a run, a row
at a time; this takes 2. What it is given is within MLflow's limits: values.text cuts what is longer.
"""

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.expression import ColumnElement, TableClause

from pipeline.tracking.bulk import (
    DATASETS,
    EXPERIMENT_TAGS,
    EXPERIMENTS,
    INPUT_TAGS,
    INPUTS,
    LATEST,
    METRICS,
    PARAMS,
    RUNS,
    TAGS,
    Bulk,
)
from pipeline.tracking.changes import Change, New
from pipeline.tracking.datasets import Dataset
from pipeline.tracking.failures import StoreError, failing
from pipeline.tracking.location import artifact_folder
from pipeline.tracking.runs import KIND, RUNNING, Point, StoredRun, known_tags, stored_key
from pipeline.tracking.values import milliseconds

DIALECTS: Mapping[str, Callable[[TableClause], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
STYLES: Mapping[str, Any] = {"sqlite": "qmark", "postgresql": "format"}  # of a driver's values by position
AT_ONCE = 200  # runs whose rows are made at a time: those of 10,000 take more than a GB
NEW_RUNS, NEW_PARAMS, NEW_DATASETS, NEW_INPUTS, NEW_INPUT_TAGS = map(
    insert, (RUNS, PARAMS, DATASETS, INPUTS, INPUT_TAGS)
)
Values = dict[str, Any]
Upload = Callable[[str, str, bytes], None]  # folder, name, content


class Tables:
    """The tables of a store whose schema is known."""

    def __init__(self, bulk: Bulk, upload: Upload) -> None:
        """Write into the tables that `bulk` reads; `upload` stores artifacts."""
        self.bulk, self.upload = bulk, upload
        insert_into = DIALECTS[bulk.engine.dialect.name]
        self.points = insert_into(METRICS).on_conflict_do_nothing()
        latest, tags, own = insert_into(LATEST), insert_into(TAGS), ["key", "run_uuid"]
        new, held = (tuple_(place.step, place.timestamp, place.value) for place in (latest.excluded, LATEST.c))
        changed = {name: latest.excluded[name] for name in ("value", "timestamp", "step", "is_nan")}
        self.latest = latest.on_conflict_do_update(index_elements=own, set_=changed, where=new > held)
        self.tags = tags.on_conflict_do_update(index_elements=own, set_={"value": tags.excluded.value})

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with failing(self.bulk.uri), self.bulk.engine.begin() as connection:
            yield connection

    def create(self, experiment_id: str, location: str, runs: Sequence[New]) -> list[StoredRun]:
        """Create runs of an experiment whose artifacts are at `location`."""
        made = [created(location, new) for new in runs]
        with self._writing() as connection:
            self._check_active(connection, EXPERIMENTS, EXPERIMENTS.c.experiment_id, {int(experiment_id)})
            add(connection, NEW_RUNS, [run_row(run, int(experiment_id)) for run in made])
            changes = [Change(run.run_id, run.params, run.datasets, tags=run.tags) for run in made]
            self._describe(connection, changes)
            self._tag(connection, changes)
        return made

    def write(self, changes: Iterable[Change]) -> None:
        """Carry out changes, all or none; files come first."""
        rest = iter(changes)
        if not (some := list(islice(rest, AT_ONCE))):
            return
        with self._writing() as connection:
            while some:
                self._check_active(connection, RUNS, RUNS.c.run_uuid, {change.run_id for change in some})
                for change in some:
                    for name, content in change.files.items():
                        self.upload(change.folder, name, content)
                self._describe(connection, some)
                self._measure(connection, some)
                self._tag(connection, some)
                conclude(connection, some)
                some = list(islice(rest, AT_ONCE))

    def _check_active(
        self, connection: Connection, table: TableClause, key: ColumnElement[Any], ids: Collection[object]
    ) -> None:
        # As MLflow's client, refuses to write a run, or into an experiment, that somebody deleted.
        active = set(connection.scalars(select(key).where(key.in_(ids), table.c.lifecycle_stage == "active")))
        if gone := sorted(map(str, set(ids) - active)):
            raise StoreError(self.bulk.uri, f"{table.name}: {', '.join(gone)}: not there, or deleted")

    def _describe(self, connection: Connection, changes: Sequence[Change]) -> None:
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

    def _measure(self, connection: Connection, changes: Sequence[Change]) -> None:
        points: list[Values] = []
        last: list[Values] = []
        for change in changes:
            for key in dict.fromkeys(key for key, _ in change.points):
                own = [point for other, point in change.points if other == key]
                points += [measured(change.run_id, key, point) for point in own]
                last.append(measured(change.run_id, key, max(own, key=rank)))
        add(connection, self.points, points)
        add(connection, self.latest, last)

    def _tag(self, connection: Connection, changes: Sequence[Change]) -> None:
        tags = ((change.run_id, stored_key(key), value) for change in changes for key, value in change.tags.items())
        add(connection, self.tags, [named(*one) for one in tags])
        for run_id, key in ((change.run_id, key) for change in changes for key in change.dropped):
            connection.execute(delete(TAGS).where(TAGS.c.run_uuid == run_id, TAGS.c.key == stored_key(key)))


def create_experiment(bulk: Bulk, name: str, location: str) -> None:
    """Create an experiment whose artifacts lie at `location`, as MLflow's `SqlAlchemyStore.create_experiment` does."""
    at = milliseconds(time.time())
    own: Values = {"name": name, "lifecycle_stage": "active", "artifact_location": location, "workspace": "default"}
    with failing(bulk.uri), bulk.engine.begin() as connection:
        connection.execute(insert(EXPERIMENTS).values(own | {"creation_time": at, "last_update_time": at}))
        made = select(EXPERIMENTS.c.experiment_id)
        made_id = connection.scalar(made.where(EXPERIMENTS.c.name == name, EXPERIMENTS.c.workspace == "default"))
        tags = [{"experiment_id": made_id, "key": key, "value": value} for key, value in KIND.items()]
        connection.execute(insert(EXPERIMENT_TAGS), tags)


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


def rank(point: Point) -> tuple[int, int, float]:
    """Return what orders a metric's points: the last is the greatest."""
    return point.step, point.at, point.value


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


def conclude(connection: Connection, changes: Sequence[Change]) -> None:
    """Set statuses and ends."""
    own = update(RUNS).where(RUNS.c.run_uuid == bindparam("of")).values(status=bindparam("to"))
    concluded = [change for change in changes if change.status]
    if going := [{"of": change.run_id, "to": change.status} for change in concluded if change.end is None]:
        connection.execute(own, going)
    ended = [change for change in concluded if change.end is not None]
    if rows := [{"of": change.run_id, "to": change.status, "at": change.end} for change in ended]:
        connection.execute(own.values(end_time=bindparam("at")), rows)
