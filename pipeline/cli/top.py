"""`pipeline top`: the best runs, or groups of runs."""

from collections.abc import Sequence

import click

from pipeline.cli import in_repository
from pipeline.cli.options import FORMAT, SCOPE, by_metric, only_one, print_rows, some, with_options, workspace_runs
from pipeline.config.axes import AXES
from pipeline.config.params import load
from pipeline.config.where import Condition
from pipeline.metrics import CHOOSING
from pipeline.system.tables import Row

GROUPED = (*(axis.name for axis in AXES), "data", "dvc_experiment", "git_commit", "sweep", "variant")  # completed


@click.command()
@click.option("-n", "count", type=click.IntRange(min=1), default=10, metavar="N", help="How many (default: 10).")
@by_metric("--by", "What to rank them by")
@click.option(
    "--group",
    "keys",
    metavar="KEY[,KEY]",
    callback=lambda _, __, text: [key.strip() for key in text.split(",")] if text else [],
    shell_complete=lambda _, __, start: [key for key in GROUPED if key.startswith(start)],
    help="Rank groups of runs that have these axes, params, tags or columns in common.",
)
@with_options(*SCOPE, *FORMAT)
@in_repository
def top(
    count: int,
    metric: str | None,
    keys: Sequence[str],
    every: bool,
    sweep: str,
    data: str,
    conditions: tuple[Condition, ...],
    form: str | None,
) -> None:
    """Print the best runs, with their MLflow ids.

    Runs that diverged or were altered are left out. By default only the workspace's runs are ranked, as a comparison
    with runs of another table means little. A link to the best run follows on standard error.

    With --group, groups are ranked by the mean over their runs. The standard deviation and the best run are shown too.

    \b
    Examples:
      pipeline top -n 3 --by cv/r2
      pipeline top --where 'batch_size = full' --where 'lr >= 1e-5'
      pipeline top --all --data scores --csv > best.csv
      pipeline top --group lr,batch_size
      pipeline top --all --group git_commit --by cv/r2
      pipeline reproduce $(pipeline top -n 1 | awk 'NR == 2 {print $NF}')
    """
    from pipeline.tracking import queries

    params = load()
    metric = metric or params.evaluate.metric
    only_one({"--all": every, "--sweep": sweep})
    fingerprints = None if every or sweep or data else frozenset(workspace_runs())
    scope = queries.Scope(fingerprints, sweep, data, conditions)
    if keys:
        print_groups(queries.sound(params.track.experiment, scope), keys, metric, count, form)
        return
    rows = queries.top(params.track.experiment, metric, count, scope)
    columns = ("run", *dict.fromkeys((metric, *CHOOSING)), "data", "seal", "run_id")
    optional = ("seal", "excess_mse", "cv/mae", "train/mse", "cv/r2", "cv/mse", "data")
    print_rows(rows, form, [some(row, columns) for row in rows], [key for key in optional if key != metric])
    if form:
        return
    if rows:
        click.echo(f"the best: {rows[0]['link']}", err=True)
    else:
        click.echo(f"no stored run has {metric}; to list runs that diverged or are missing: pipeline runs", err=True)


def print_groups(runs: Sequence[Row], keys: Sequence[str], metric: str, most: int, form: str | None) -> None:
    """Print the best groups of runs."""
    from pipeline.evaluation import groups

    rows = groups.rank(runs, keys, metric)[:most]
    print_rows(rows, form, groups.rows_to_show(rows, metric), ("run_id", "best run", "behind", "diverged"))
