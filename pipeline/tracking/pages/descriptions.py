"""What MLflow's pages call a sweep and its runs, and say of them in Markdown. Does not import MLflow.

Names of tables and columns are a user's: they stand in code spans, where nothing is markup.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.config.axes import AXES, Axis
from pipeline.errors import shown
from pipeline.evaluation import choice
from pipeline.metrics import RUN_METRICS
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.system import repository
from pipeline.system.tables import measured
from pipeline.tracking.pages import links
from pipeline.tracking.values import sweep_metrics

SHOWN = 15  # characters of a name that the narrowest column of the pages shows
MOST = 10  # columns, or configurations that diverged, named one by one


def code(text: object) -> str:
    """Show text that others may have written, as code."""
    return f"`{shown(str(text))[1:-1].replace('`', '´').replace('|', '¦')}`"


def listed(items: Iterable[object]) -> str:
    """List the first items, and count the rest."""
    texts = [code(item) for item in items]
    return ", ".join(texts[:MOST]) + (f" and {len(texts) - MOST:,} more" if len(texts) > MOST else "")


def data(summary: Mapping[str, Any], label: str, date: str) -> str:
    """Say which data a sweep was trained on; takes summary.json, the data's label and the table's date."""
    split = summary["split"]
    tested = f"{split['folds']} folds" if split["method"] == "kfold" else f"{split['test_fraction']:.0%} held out"
    return (
        f"Data {code(label)}: {summary['rows']:,} rows of {code(summary['source'])} ({date}); "
        f"{listed(summary['features'])} → {code(summary['target'])}; {tested}"
    )


def run(one: Run, sweep: str, experiment_id: str, parent: str, about: str) -> str:
    """Describe a run: its sweep's name and run, and `about` its data."""
    return (
        f"**{one.name}** of the sweep [{sweep}]({links.run_page(experiment_id, parent)})\n\n{about}\n\n"
        f"`pipeline reproduce {one.fingerprint}` makes it again, and compares."
    )


def sweep(
    evaluated: Sequence[Record], champion: str, metric: str, about: str, elsewhere: int, pages: Mapping[str, str]
) -> str:
    """Describe an evaluated sweep, the champion first, as MLflow's pages fold all but the first lines.

    Args:
        evaluated: all of its runs.
        champion: its configuration, empty if every run diverged.
        metric: that chose it.
        about: its data.
        elsewhere: how many of its runs an earlier sweep trained, whose own run lists them.
        pages: what to look at, title -> link.
    """
    parts = [_champion(evaluated, champion, metric), about, _counts(evaluated, elsewhere)]
    if best := choice.best_run(evaluated, champion, metric):
        parts.append(f"Make the champion's best run again, and compare: `pipeline reproduce {best.run.fingerprint}`")
    parts.append(" · ".join(f"[{title}]({link})" for title, link in pages.items()))
    return "\n\n".join(parts)


def final(figures: Mapping[str, float], champions: int) -> str:
    """Say what the champion reaches on the final rows, and how many champions were measured on them so far."""
    said = ", ".join(f"{key} {value:.6g}" for key, value in figures.items())
    times = "the first champion" if champions == 1 else f"the last of {champions:,} champions"
    return f"On the final rows: {said}. It is {times} measured on them."


def images(names: Iterable[str], run_id: str) -> str:
    """Show images among a run's artifacts."""
    return "\n\n".join(f"![{name}](get-artifact?path={quote(name)}&run_uuid={run_id})" for name in names)


def _champion(evaluated: Sequence[Record], champion: str, metric: str) -> str:
    if not champion:
        return "**No champion: every run diverged.**"
    found = sweep_metrics(evaluated, champion)
    said = {}
    for key in (metric, *(key for key in RUN_METRICS if key != metric)):
        if value := measured(found.get(f"champion/{key}"), found.get(f"champion/{key} std")):
            said[key] = value
    runs = found["champion/runs"]
    seeds = f"{runs:.0f} seed{'s' * (runs > 1)}"
    rest = " · ".join(f"{key} {value}" for key, value in said.items() if key != metric)
    return f"**Champion: {champion}, {metric} {said.get(metric, 'unknown')}** over {seeds}\n\n{rest}"


def _counts(evaluated: Sequence[Record], elsewhere: int) -> str:
    lost: dict[str, list[str]] = {}
    for record in evaluated:
        if record.diverged:
            lost.setdefault(record.run.configuration, []).append(record.diverged.split(";")[0])
    said = f"{len(evaluated):,} runs"
    if elsewhere:
        said += f", {elsewhere:,} of them trained by earlier sweeps and listed there"
    said += f"; {sum(map(len, lost.values())):,} diverged:\n" if lost else "; none diverged."
    items = [f"- {code(name)}: {len(where)} of its seeds, the first on {where[0]}" for name, where in lost.items()]
    more = [f"- and {len(items) - MOST:,} more configurations"] if len(items) > MOST else []
    return "\n".join([said, *items[:MOST], *more])


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
