"""`pipeline compare`: two sets of runs side by side, configuration by configuration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.commands import sides
from pipeline.commands.sides import Side
from pipeline.config.params import HIGHER_IS_BETTER
from pipeline.errors import InputError
from pipeline.evaluation.paired import LEVEL, Paired, holm, pair
from pipeline.system.progress import count
from pipeline.system.tables import Row, spread

Configuration = tuple[object, ...]
TEST = "paired t-test over the seeds in common, two-sided"


@dataclass(frozen=True)
class Comparison:
    """Two sides, the configurations that both have as rows, best of A first, and what a reader must know of them."""

    rows: list[Row]
    notes: list[str]


def compare(first: str, second: str, metric: str, experiment: str) -> Comparison:
    """Compare a metric of two sides, A and B.

    Runs are paired by their configuration, as far as it varies within a side, and by their seeds: what is the same for
    all runs of a side, such as the number of epochs, may be what the two sides differ in.

    Raises:
        InputError: a side is not found, has no runs, or shares no configuration with the other.
    """
    found = [sides.find(named, experiment) for named in (first, second)]
    for named, side in zip((first, second), found, strict=True):
        if not any(metric in run for run in side.runs):
            raise InputError(f"{named}: has no run with {metric}; its runs: pipeline runs --all")
    a, b = found
    axes = sides.varying(found)
    grouped = [_by_configuration(side, axes, metric) for side in found]
    both = [configuration for configuration in grouped[0] if configuration in grouped[1]]
    if not both:
        raise InputError(f"{first} and {second}: have no configuration in common, of {', '.join(axes) or 'one each'}")
    compared = [pair(grouped[0][one], grouped[1][one]) for one in both]
    corrected = holm([one.p for one in compared])
    rows = [
        _row(dict(zip(axes, configuration, strict=True)), one, p)
        for configuration, one, p in zip(both, compared, corrected, strict=True)
    ]
    worse = -1 if metric in HIGHER_IS_BETTER else 1
    rows.sort(key=lambda row: worse * mean if isinstance(mean := row["A mean"], float) else math.inf)
    alone = [len(side) - len(both) for side in grouped]
    return Comparison(rows, [*_about(a, b, axes, metric), *_only(alone), _tested(compared)])


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
    """Return what people see: means ± standard deviations, and a mark on what is beyond the seeds' spread."""
    shown: list[Row] = []
    for row in rows:
        cells = {key: row[key] for key in list(row)[: list(row).index("A mean")]}
        cells |= {name: _spread(row[f"{name} mean"], row[f"{name} std"]) for name in "AB"}
        cells |= {"B − A": _spread(row["difference"], row["difference std"]), "pairs": row["pairs"]}
        p = row["p corrected"]
        cells |= {"p": f"{p:.2g}" if isinstance(p, float) else "no test", "": "*" if row["beyond"] else ""}
        shown.append(cells)
    return shown


def _spread(mean: object, deviation: object) -> str | None:
    around = f" ± {spread(deviation)}" if isinstance(deviation, float) else ""
    return f"{mean:.6g}{around}" if isinstance(mean, float) else None


def _about(a: Side, b: Side, axes: list[str], metric: str) -> list[str]:
    lines = [f"{metric} of A, {a.what}: {count(len(a.runs), 'run')}, and B, {b.what}: {count(len(b.runs), 'run')}"]
    if apart := sides.between(a, b, axes):
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
    untested = "; no test with less than two pairs" if tested < len(compared) else ""
    return f"{TEST}, p corrected for {count(tested, 'test')} by Holm's method; * where p < {LEVEL}{untested}"
