"""`pipeline leaderboard`: the configurations of a sweep."""

import click

from pipeline.cli import in_repository
from pipeline.cli.options import FORMAT, SCOPE, only_one, print_rows, with_options
from pipeline.config.params import load
from pipeline.config.where import Condition
from pipeline.errors import InputError
from pipeline.evaluation.boards import OPTIONAL, configuration, rows_to_show
from pipeline.evaluation.choice import costs, lucky
from pipeline.runs import outs
from pipeline.system.files import read_csv
from pipeline.system.tables import Row


@click.command()
@click.option("-n", "count", type=click.IntRange(min=1), metavar="N", help="Only the best N.")
@with_options(*SCOPE, *FORMAT)
@in_repository
def leaderboard(
    count: int | None, every: bool, sweep: str, data: str, conditions: tuple[Condition, ...], form: str | None
) -> None:
    """Print the configurations of the last sweep, best first.

    Each metric is the mean over the seeds ± the standard deviation; a metric of tested rows has its standard error over
    the folds too. With evaluate.choose: one_se, the champion comes first. Other sweeps' leaderboards are read from
    MLflow; sweeps of the same data are ranked together.

    \b
    Examples:
      pipeline leaderboard -n 5
      pipeline leaderboard --where 'variant = linear' --where 'diverged = 0'
      pipeline leaderboard --all
      pipeline leaderboard --json | python -m json.tool
    """
    only_one({"--all": every, "--sweep": sweep})
    elsewhere = every or sweep or data
    rows = stored(sweep, data, conditions) if elsewhere else here()
    said = lucky(len(rows), rows[0].get("tested rows")) if rows and not (every or data) else ""
    if not elsewhere:
        known = {name for row in rows for name in row}
        if unknown := [one for one in conditions if one.key not in known]:
            raise InputError(f"--where '{unknown[0]}': the leaderboard has only: {', '.join(sorted(known))}")
        rows = [row for row in rows if all(condition.holds(row) for condition in conditions)]
    best = rows[:count]
    print_rows(best, form, rows_to_show(best), OPTIONAL)
    if len(rows) > len(best) and not form:
        click.echo(f"… and {len(rows) - len(best):,} more: pipeline leaderboard", err=True)
    if form or elsewhere:
        return
    for line in filter(None, (costs(outs.summary()) if outs.METRICS.exists() else "", said)):
        click.echo(line, err=True)


def here() -> list[Row]:
    """Read the workspace's leaderboard.

    Raises:
        InputError: the workspace has no leaderboard.
    """
    if not outs.LEADERBOARD.exists():
        raise InputError(f"{outs.LEADERBOARD}: no such file; run: dvc repro. To see other sweeps: --all")
    return [configuration(line) for line in read_csv(outs.LEADERBOARD)]


def stored(sweep: str, data: str, conditions: tuple[Condition, ...]) -> list[Row]:
    """Read the leaderboards in MLflow."""
    from pipeline.tracking import queries

    params = load()
    scope = queries.Scope(None, sweep, data, conditions)
    return queries.leaderboards(params.track.experiment, params.evaluate.metric, scope)
