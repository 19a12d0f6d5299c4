"""What MLflow's pages say of a sweep and its runs, in Markdown. Does not import MLflow.

Names of tables and columns are a user's: they stand in code spans, where nothing is markup.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pipeline.evaluation import choice
from pipeline.metrics import RUN_METRICS
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.system.tables import measured
from pipeline.tracking.display import shown
from pipeline.tracking.pages import figures, links

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
    found = figures.compute(evaluated, champion)
    said = {}
    for key in (metric, *(key for key in RUN_METRICS if key != metric)):
        if value := measured(found.get(f"champion/{key}"), found.get(f"champion/{key} std")):
            said[key] = value
    seeds = f"{found[figures.CHAMPION_RUNS]:.0f} seed{'s' * (found[figures.CHAMPION_RUNS] > 1)}"
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
