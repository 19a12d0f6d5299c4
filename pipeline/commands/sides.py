"""The runs that a person names to compare: of a sweep in MLflow, the workspace, a commit or a DVC experiment."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from pipeline.config.params import METRICS
from pipeline.config.where import number
from pipeline.errors import InputError
from pipeline.runs import outs
from pipeline.runs.run import Run
from pipeline.system import repository
from pipeline.system.files import read_csv
from pipeline.system.tables import Row

SHORTEST = 4  # digits of a sweep's id
# What configures a run, and may differ between two; a seed is what pairs them.
CONFIGURED = tuple(field.name for field in fields(Run) if field.name not in {"seed", "fingerprint"})


@dataclass(frozen=True)
class Side:
    """One side of a comparison: what it is, for people, and its runs, with axes, seed and metrics."""

    what: str
    runs: list[Row]


def find(named: str, experiment: str) -> Side:
    """Find the runs that are meant by a sweep's id or its first digits, a revision, or `workspace`.

    Raises:
        InputError: there are none, or more than one sweep or commit may be meant.
    """
    if named == "workspace":
        return Side("the workspace", _of_revision(None))
    sweeps = _sweeps(named, experiment) if re.fullmatch(f"[0-9a-f]{{{SHORTEST},12}}", named) else []
    commit = repository.git("rev-parse", "--verify", "--quiet", f"{named}^{{commit}}")
    meant = [*(f"sweep {one}" for one in sweeps), *([f"commit {commit[:12]}"] if commit else [])]
    if len(meant) > 1:
        raise InputError(f"{named}: may be any of: {', '.join(meant)}; give more digits")
    if sweeps:
        return Side(meant[0], _of_sweep(sweeps[0], experiment))
    return Side(f"{named} ({meant[0]})" if commit else named, _of_revision(named))


def _sweeps(start: str, experiment: str) -> list[str]:
    from pipeline.tracking import listings  # noqa: PLC0415 - may load MLflow, 1 s

    return [one for one in listings.sweep_ids(experiment) if one.startswith(start)]


def _of_sweep(sweep: str, experiment: str) -> list[Row]:
    from pipeline.tracking import listings  # noqa: PLC0415

    return [_run(row, row) for row in listings.sound(experiment, listings.Scope(sweep=sweep))]


def _of_revision(revision: str | None) -> list[Row]:
    if revision is None and outs.EVALUATED.exists():
        tables = [read_csv(path) for path in sorted(outs.TRAINED.glob("*/runs.csv"))]
        evaluated = read_csv(outs.EVALUATED)
    else:
        from pipeline.commands import revisions  # noqa: PLC0415 - loads DVC, 1 s

        tables = revisions.tables(revision, f"{outs.TRAINED}/*/runs.csv")
        evaluated = [row for table in revisions.tables(revision, str(outs.EVALUATED)) for row in table]
    metrics = {row["fingerprint"]: row for row in evaluated}
    return [_run(row, metrics.get(row["fingerprint"], {})) for table in tables for row in table]


def _run(configured: Row, metrics: Row) -> Row:
    """Take a run's configuration, seed and metrics, numbers as numbers."""
    own = {key: number(configured[key]) for key in (*CONFIGURED, "seed") if key in configured}
    return own | {key: value for key in METRICS if isinstance(value := number(metrics.get(key, "")), int | float)}


def varying(sides: Sequence[Side]) -> list[str]:
    """List what differs within a side: the axes by which configurations are told apart."""
    return [key for key in CONFIGURED if any(len(_values(side, key)) > 1 for side in sides)]


def between(a: Side, b: Side, axes: Sequence[str]) -> Mapping[str, tuple[object, object]]:
    """List what is the same for all runs of a side, and not that of the other."""
    pairs = {key: (_values(a, key), _values(b, key)) for key in CONFIGURED if key not in axes}
    return {key: (one.pop(), other.pop()) for key, (one, other) in pairs.items() if one and other and one != other}


def _values(side: Side, key: str) -> set[object]:
    """Return what a side's runs have of a key: nothing of a setting that is another optimizer's or loss's."""
    return {run[key] for run in side.runs if run.get(key) not in {None, ""}}
