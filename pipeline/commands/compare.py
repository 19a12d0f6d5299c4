"""`pipeline compare`: two sets of runs side by side, configuration by configuration."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from pipeline.config.where import number
from pipeline.errors import InputError
from pipeline.evaluation.paired import LEVEL, Paired, holm, pair
from pipeline.metrics import CHOOSING, as_loss
from pipeline.runs import outs
from pipeline.runs.run import Run
from pipeline.system import repository
from pipeline.system.files import read_csv
from pipeline.system.progress import count
from pipeline.system.tables import Row, measured

Configuration = tuple[object, ...]
TEST = "paired t-test over the seeds in common, two-sided"
SHORTEST = 4  # digits of a sweep's id
# What may differ between two configurations; runs are paired by their seed.
CONFIGURED = tuple(field.name for field in fields(Run) if field.name not in {"seed", "fingerprint"})


@dataclass(frozen=True)
class Side:
    """One side of a comparison: what it is, for people, and its runs, with axes, seed and metrics."""

    what: str
    runs: list[Row]


@dataclass(frozen=True)
class SideBySide:
    """The configurations that two sides have in common, as rows, A's best first, and notes for the reader."""

    rows: list[Row]
    notes: list[str]


def compare(first: str, second: str, metric: str, experiment: str) -> SideBySide:
    """Compare a metric of two sides, A and B.

    Runs are paired by their seed and by the part of their configuration that varies within a side. A setting that is
    the same for all runs of a side, such as the number of epochs, may differ between the sides.

    Raises:
        InputError: a side is not found, has no runs, or shares no configuration with the other.
    """
    found = [find(named, experiment) for named in (first, second)]
    for named, side in zip((first, second), found, strict=True):
        if not any(metric in run for run in side.runs):
            raise InputError(f"{named}: has no run with {metric}; its runs: pipeline runs --all")
    a, b = found
    axes = varying(found)
    grouped = [_by_configuration(side, axes, metric) for side in found]
    both = [configuration for configuration in grouped[0] if configuration in grouped[1]]
    if not both:
        raise InputError(f"{first} and {second}: have no configuration in common; axes: {', '.join(axes) or 'none'}")
    compared = [pair(grouped[0][one], grouped[1][one]) for one in both]
    corrected = holm([one.p for one in compared])
    rows = [
        _row(dict(zip(axes, configuration, strict=True)), one, p)
        for configuration, one, p in zip(both, compared, corrected, strict=True)
    ]
    rows.sort(key=lambda row: as_loss(metric, row["A mean"]))
    alone = [len(side) - len(both) for side in grouped]
    return SideBySide(rows, [*_about(a, b, axes, metric), *_only(alone), _tested(compared)])


def find(named: str, experiment: str) -> Side:
    """Find the runs of a sweep, named by its id or the first digits, of a revision, or of the `workspace`.

    Raises:
        InputError: there are none, or the name fits more than one sweep or commit.
    """
    if named == "workspace":
        return Side("the workspace", _of_revision(None))
    sweeps: list[str] = []
    if re.fullmatch(f"[0-9a-f]{{{SHORTEST},12}}", named):
        from pipeline.tracking import queries  # noqa: PLC0415 - may load MLflow, 1 s

        sweeps = [one for one in queries.sweep_ids(experiment) if one.startswith(named)]
    commit = repository.git("rev-parse", "--verify", "--quiet", f"{named}^{{commit}}")
    meant = [*(f"sweep {one}" for one in sweeps), *([f"commit {commit[:12]}"] if commit else [])]
    if len(meant) > 1:
        raise InputError(f"{named}: fits {' and '.join(meant)}; give more digits")
    if sweeps:
        rows = queries.sound(experiment, queries.Scope(sweep=sweeps[0]))
        return Side(meant[0], [_run(row, row) for row in rows])
    return Side(f"{named} ({meant[0]})" if commit else named, _of_revision(named))


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
    own = {key: number(configured[key]) for key in (*CONFIGURED, "seed") if key in configured}
    return own | {key: value for key in CHOOSING if isinstance(value := number(metrics.get(key, "")), int | float)}


def varying(sides: Sequence[Side]) -> list[str]:
    """List the axes that vary within a side: they tell configurations apart."""
    return [key for key in CONFIGURED if any(len(_values(side, key)) > 1 for side in sides)]


def between(a: Side, b: Side, axes: Sequence[str]) -> Mapping[str, tuple[object, object]]:
    """List the settings that all runs of a side have in common, and that differ between the sides."""
    pairs = {key: (_values(a, key), _values(b, key)) for key in CONFIGURED if key not in axes}
    return {key: (one.pop(), other.pop()) for key, (one, other) in pairs.items() if one and other and one != other}


def _values(side: Side, key: str) -> set[object]:
    # None and "": the setting is of another optimizer or loss.
    return {run[key] for run in side.runs if run.get(key) not in {None, ""}}


def _by_configuration(side: Side, axes: list[str], metric: str) -> dict[Configuration, dict[object, float]]:
    values: dict[Configuration, dict[object, float]] = {}
    for run in side.runs:
        own = values.setdefault(tuple(run.get(axis) for axis in axes), {})
        if isinstance(value := run.get(metric), int | float) and math.isfinite(value):  # a diverged run has none
            own[run.get("seed")] = float(value)
    return values


def _row(configuration: Mapping[str, object], one: Paired, corrected: float | None) -> Row:
    row = dict(configuration)
    for place, name in enumerate("AB"):
        row |= {f"{name} mean": one.means[place], f"{name} std": one.deviations[place], f"{name} runs": one.runs[place]}
    row |= {"difference": one.difference, "difference std": one.spread, "pairs": one.pairs, "p": one.p}
    row |= {"p corrected": corrected, "beyond": None if corrected is None else corrected < LEVEL}
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def rows_to_show(rows: list[Row]) -> list[Row]:
    """Return what people see: means ± standard deviations, and a star at a significant difference."""
    shown: list[Row] = []
    for row in rows:
        cells = {key: row[key] for key in list(row)[: list(row).index("A mean")]}
        cells |= {name: measured(row[f"{name} mean"], row[f"{name} std"]) for name in "AB"}
        cells |= {"B − A": measured(row["difference"], row["difference std"]), "pairs": row["pairs"]}
        p = row["p corrected"]
        cells |= {"p": f"{p:.2g}" if isinstance(p, float) else "no test", "": "*" if row["beyond"] else ""}
        shown.append(cells)
    return shown


def _about(a: Side, b: Side, axes: list[str], metric: str) -> list[str]:
    lines = [f"{metric} of A, {a.what}: {count(len(a.runs), 'run')}, and B, {b.what}: {count(len(b.runs), 'run')}"]
    if apart := between(a, b, axes):
        named = ", ".join(f"{key} {one} and {other}" for key, (one, other) in apart.items())
        lines.append(f"all runs of A and B differ in: {named}")
    return lines


def _only(alone: list[int]) -> list[str]:
    counts = [f"{lacking:,} of {name}" for lacking, name in zip(alone, "AB", strict=True) if lacking]
    return [f"configurations that the other lacks: {', '.join(counts)}"] if counts else []


def _tested(compared: list[Paired]) -> str:
    tested = sum(one.p is not None for one in compared)
    if not tested:
        return "no test: no configuration has two seeds in common"
    untested = "; no test with fewer than two pairs" if tested < len(compared) else ""
    return f"{TEST}, p corrected for {count(tested, 'test')} by Holm's method; * where p < {LEVEL}{untested}"
