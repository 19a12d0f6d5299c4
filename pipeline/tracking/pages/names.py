"""What MLflow's pages call a sweep and its runs. Does not import MLflow."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline.config.axes import AXES, Axis
from pipeline.runs.run import Run
from pipeline.system import repository

SHOWN = 15  # characters of a name that the narrowest column of the pages shows


def short(number: float) -> str:
    """Write a number the shorter way: 0.01, 1e-5; it still reads back with the same bits."""
    digits = Decimal(repr(number)).normalize()
    return min(f"{digits:f}", f"{digits:e}".replace("+", ""), key=len)


def shortest(axis: Axis, value: object) -> str:
    """Write an axis's value for a name with little room: b2, full, 1e-5."""
    written = short(value) if isinstance(value, float) else str(value)
    return written if isinstance(value, str) else f"{axis.short}{written}"


def run_names(runs: Sequence[Run]) -> dict[str, str]:
    """Name the runs of one sweep by what varies in it, fingerprint -> name; no two begin with the same 15 characters.

    Such as `b2 1e-5 s1 matrix`: batch size, lr, seed and variant. Where the beginnings would be equal, the name starts
    with the run's number in the sweep.
    """
    columns = [[shortest(axis, getattr(run, axis.name)) for run in runs] for axis in AXES]
    varying = [column for column in columns if len(set(column)) > 1]
    names = [" ".join(parts) for parts in zip(*varying, [run.variant for run in runs], strict=True)]
    if len({name[:SHOWN] for name in names}) < len(names):
        width = len(str(len(names)))
        names = [f"{number:0{width}} {name}" for number, name in enumerate(names, 1)]
    return dict(zip([run.fingerprint for run in runs], names, strict=True))


def full_name(run: Run) -> str:
    """Name a run of a searched sweep by all axes, as nobody knows which of them will vary."""
    return " ".join([*(shortest(axis, getattr(run, axis.name)) for axis in AXES), run.variant])


def sweep_name(runs: Sequence[Run], table: str, date: str, experiment: str, search: str = "") -> str:
    """Name a sweep by its DVC experiment, its table, its axes, what all runs share, and the table's date.

    A searched one, whose runs are known only as they arise, is named by its search instead of axes.
    """
    axes = {"variants": {run.variant for run in runs}}
    for axis in AXES:
        values = [getattr(run, axis.name) for run in runs]
        if not axis.is_shown(runs) or axis.name == "epochs":
            continue
        axes[axis.words[1]] = {f"{axis.words[0]} {short(value) if type(value) is float else value}" for value in values}
    varying = " × ".join(f"{len(values)} {words}" for words, values in axes.items() if len(values) > 1)
    shared = [next(iter(values)) for values in axes.values() if len(values) == 1]
    epochs = [f"{number} epochs" for number in sorted({run.epochs for run in runs})]
    if len(runs) != math.prod(map(len, axes.values())) * len(epochs) and varying:  # restricted by only and skip
        varying = f"{len(runs):,} runs of {varying}"
    parts = " · ".join(filter(None, [search, varying, *shared, *epochs, f"data of {date}"]))
    return f"{' · '.join(filter(None, [experiment, table]))}: {parts}"


def date_of(summary: Mapping[str, Any]) -> str:
    """Return when a table was last changed, as YYYY-MM-DD: the commit that changed it, else the file's own date.

    Args:
        summary: of the prepared data, summary.json.
    """
    source = summary["source"]
    paths = ["--", source, f"{source}.dvc"]
    if not repository.git("status", "--porcelain", *paths) and (
        date := repository.git("log", "-1", "--format=%cs", *paths)
    ):
        return date
    try:
        changed = Path(source).stat().st_mtime
    except OSError:  # a clone after `dvc pull` need not have it
        return "unknown date"
    return datetime.fromtimestamp(changed, UTC).date().isoformat()
