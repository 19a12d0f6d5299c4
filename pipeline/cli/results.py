"""The commands that look at runs: top, runs and leaderboard."""

from collections.abc import Sequence

import click

from pipeline import outs
from pipeline.cli import in_repository
from pipeline.params import METRICS, InputError, load


@click.command()
@click.option("-n", "count", type=click.IntRange(min=1), default=10, metavar="N", help="How many (default: 10).")
@click.option(
    "--by",
    type=click.Choice(METRICS),
    metavar="METRIC",
    help=f"What to rank them by: {', '.join(METRICS)} (default: evaluate.metric).",
)
@in_repository
def top(count: int, by: str | None) -> None:
    r"""Print the best runs, with their MLflow ids.

    The best comes first. Runs that diverged or were altered are never among them. The id is the last column:

    \b
      pipeline top -n 1 | awk 'NR == 2 {print $NF}'
    """
    from pipeline.tracking import queries

    params = load()
    print_table(queries.top(params.track.experiment, by or params.evaluate.metric, count))


@click.command()
@click.argument("revision", required=False, metavar="[EXPERIMENT|REV]")
@in_repository
def runs(revision: str | None) -> None:
    """List the runs of a revision, with their MLflow ids.

    Without an argument, lists the runs of the workspace's outs; with one, those of the outs that DVC recorded in that
    experiment, branch, tag or commit.
    """
    from pipeline.commands import revisions
    from pipeline.tracking import queries

    experiment = load().track.experiment
    print_table(queries.runs(experiment, revisions.run_names(revision)))


@click.command()
@in_repository
def leaderboard() -> None:
    """Print the last sweep's configurations, best first.

    Each metric is the mean over the seeds ± its standard deviation.
    """
    if not outs.LEADERBOARD.exists():
        raise InputError(f"{outs.LEADERBOARD}: no such file here; run: dvc repro")
    rows = []
    for row in outs.read_csv(outs.LEADERBOARD):
        shown = {key: row[key] for key in ("configuration", "runs", "diverged")}
        for metric in METRICS:
            mean, std = row[f"{metric} mean"], row[f"{metric} std"]
            shown[metric] = f"{float(mean):.6g}" + (f" ± {float(std):.2g}" if std else "") if mean else ""
        rows.append(shown)
    print_table(rows)


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """Print rows under their keys, columns aligned."""
    if not rows:
        print("no runs")
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
