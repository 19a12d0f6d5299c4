"""The commands that list results: top, runs and leaderboard."""

from collections.abc import Sequence

import click

from pipeline.cli import in_repository
from pipeline.cli.options import FORMAT, SCOPE, conditions_of, only_one, print_rows, with_options, workspace_runs
from pipeline.config.axes import AXES
from pipeline.config.params import METRICS, load
from pipeline.errors import InputError
from pipeline.evaluation.boards import OPTIONAL, configuration, rows_to_show
from pipeline.evaluation.choice import costs, lucky
from pipeline.runs import outs
from pipeline.system.files import read_csv
from pipeline.system.tables import Row

GROUPED = (*(axis.name for axis in AXES), "data", "dvc_experiment", "git_commit", "sweep", "variant")  # completed
RUN_COLUMNS = ("run", "status", "data", "sweep", "dvc_experiment", "git_commit", "git_dirty", "seal", "fingerprint")
RUN_OPTIONAL = ("git_dirty", "fingerprint", "seal", "git_commit", "dvc_experiment", "sweep")


@click.command()
@click.option("-n", "count", type=click.IntRange(min=1), default=10, metavar="N", help="How many (default: 10).")
@click.option(
    "--by",
    type=click.Choice(METRICS),
    metavar="METRIC",
    help=f"What to rank them by: {', '.join(METRICS)} (default: evaluate.metric).",
)
@click.option(
    "--group",
    "keys",
    metavar="KEY[,KEY]",
    callback=lambda _, __, text: [key.strip() for key in text.split(",")] if text else [],
    shell_complete=lambda _, __, start: [key for key in GROUPED if key.startswith(start)],
    help="Rank groups of runs that share these: axes, params, tags or columns.",
)
@with_options(*SCOPE, *FORMAT)
@in_repository
def top(
    count: int,
    by: str | None,
    keys: Sequence[str],
    every: bool,
    sweep: str,
    data: str,
    conditions: Sequence[str],
    form: str | None,
) -> None:
    """Print the best runs, with their MLflow ids.

    The best comes first. Runs that diverged or were altered are never among them. Without further options, they are
    the workspace's runs: ranking them against those of another table would mean little. A link to the best of them
    follows on standard error.

    With --group, groups are ranked by the mean over their runs, and shown with its standard deviation and the best.

    \b
    Examples:
      pipeline top -n 3 --by cv/r2
      pipeline top --where 'batch_size = full' --where 'lr >= 1e-5'
      pipeline top --all --data scores --csv > best.csv
      pipeline top --group lr,batch_size
      pipeline top --all --group git_commit --by cv/r2
      pipeline reproduce $(pipeline top -n 1 | awk 'NR == 2 {print $NF}')
    """
    from pipeline.tracking import listings

    params = load()
    metric = by or params.evaluate.metric
    only_one({"--all": every, "--sweep": sweep})
    scope = listings.Scope(
        None if every or sweep or data else frozenset(workspace_runs()), sweep, data, conditions_of(conditions)
    )
    if keys:
        print_groups(listings.sound(params.track.experiment, scope), keys, metric, count, form)
        return
    rows = listings.top(params.track.experiment, metric, count, scope)
    columns = ("run", *dict.fromkeys((metric, *METRICS)), "data", "seal", "run_id")
    optional = ("seal", "excess_mse", "cv/mae", "train/mse", "cv/r2", "cv/mse", "data")
    print_rows(rows, form, [some(row, columns) for row in rows], [key for key in optional if key != metric])
    if form:
        return
    if rows:
        click.echo(f"the best: {rows[0]['link']}", err=True)
    else:
        click.echo(f"none is stored with a {metric}; those that diverged, or are missing: pipeline runs", err=True)


def print_groups(runs: Sequence[Row], keys: Sequence[str], metric: str, most: int, form: str | None) -> None:
    """Print the best groups of runs."""
    from pipeline.evaluation import groups

    rows = groups.rank(runs, keys, metric)[:most]
    print_rows(rows, form, groups.rows_to_show(rows, metric), ("run_id", "best run", "behind", "diverged"))


@click.command()
@click.argument("revision", required=False, metavar="[EXPERIMENT|REV]")
@with_options(*SCOPE, *FORMAT)
@in_repository
def runs(revision: str | None, every: bool, sweep: str, data: str, conditions: Sequence[str], form: str | None) -> None:
    """List the runs of a revision, with their MLflow ids.

    Without an argument, lists the runs of the workspace's outs; with one, those of the outs that DVC recorded in that
    experiment, branch, tag or commit. A run that MLflow lacks is listed as missing.

    \b
    Examples:
      pipeline runs
      pipeline runs main~1
      pipeline runs slower --where 'status != FINISHED'
      pipeline runs --all --json
    """
    from pipeline.tracking import listings

    only_one({"EXPERIMENT|REV": revision, "--all": every, "--sweep": sweep})
    experiment = load().track.experiment
    scope = listings.Scope(None, sweep, data, conditions_of(conditions))
    if every or sweep or (data and not revision):
        rows = listings.runs(experiment, scope)
    else:
        rows = listings.runs_of(experiment, names_of(revision), scope)
    shown = [some(row, (*RUN_COLUMNS, "run_id")) for row in rows]
    for row in shown:
        row["git_commit"] = str(row["git_commit"] or "")[:12]
    print_rows(rows, form, shown, RUN_OPTIONAL)


def names_of(revision: str | None) -> dict[str, str]:
    """List the runs of a revision, fingerprint -> name."""
    if revision is None and outs.EVALUATED.exists():
        return workspace_runs()
    from pipeline.commands import revisions

    return revisions.run_names(revision)


@click.command()
@click.option("-n", "count", type=click.IntRange(min=1), metavar="N", help="Only the best N.")
@with_options(*SCOPE, *FORMAT)
@in_repository
def leaderboard(
    count: int | None, every: bool, sweep: str, data: str, conditions: Sequence[str], form: str | None
) -> None:
    """Print the configurations of the last sweep, best first.

    Each metric is the mean over the seeds ± its standard deviation, and, where rows are tested, its standard error over
    the folds. With evaluate.choose: one_se, the champion comes first. Other sweeps' leaderboards come from MLflow;
    those of the same data are ranked together.

    \b
    Examples:
      pipeline leaderboard -n 5
      pipeline leaderboard --where 'variant = linear' --where 'diverged = 0'
      pipeline leaderboard --all
      pipeline leaderboard --json | python -m json.tool
    """
    only_one({"--all": every, "--sweep": sweep})
    chosen = conditions_of(conditions)
    rows = stored(sweep, data, conditions) if every or sweep or data else here()
    said = lucky(len(rows), rows[0].get("tested rows")) if rows and not (every or data) else ""
    if not (every or sweep or data):
        known = {name for row in rows for name in row}
        if unknown := [one for one in chosen if one.key not in known]:
            raise InputError(f"--where '{unknown[0]}': the leaderboard has only: {', '.join(sorted(known))}")
        rows = [row for row in rows if all(condition.holds(row) for condition in chosen)]
    best = rows[:count]
    print_rows(best, form, rows_to_show(best), OPTIONAL)
    if len(rows) > len(best) and not form:
        click.echo(f"… and {len(rows) - len(best):,} more: pipeline leaderboard", err=True)
    if form or every or sweep or data:
        return
    for line in filter(None, (costs(outs.summary()) if outs.METRICS.exists() else "", said)):
        click.echo(line, err=True)


def here() -> list[Row]:
    """Read the workspace's leaderboard.

    Raises:
        InputError: there is none.
    """
    if not outs.LEADERBOARD.exists():
        raise InputError(f"{outs.LEADERBOARD}: no such file here; run: dvc repro. For other sweeps': --all")
    return [configuration(line) for line in read_csv(outs.LEADERBOARD)]


def stored(sweep: str, data: str, conditions: Sequence[str]) -> list[Row]:
    """Read the leaderboards that MLflow holds."""
    from pipeline.tracking import listings

    params = load()
    scope = listings.Scope(None, sweep, data, conditions_of(conditions))
    return listings.leaderboards(params.track.experiment, params.evaluate.metric, scope)


def some(row: Row, keys: Sequence[str]) -> dict[str, object]:
    """Take some of a row's columns."""
    return {key: row.get(key) for key in keys}
