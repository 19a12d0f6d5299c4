"""`pipeline runs`: the runs of a revision."""

import click

from pipeline.cli import in_repository
from pipeline.cli.options import FORMAT, SCOPE, only_one, print_rows, some, with_options
from pipeline.config.params import load
from pipeline.config.where import Condition
from pipeline.runs import outs

COLUMNS = ("run", "status", "data", "sweep", "dvc_experiment", "git_commit", "git_dirty", "seal", "fingerprint")
OPTIONAL = ("git_dirty", "fingerprint", "seal", "git_commit", "dvc_experiment", "sweep")


@click.command()
@click.argument("revision", required=False, metavar="[EXPERIMENT|REV]")
@with_options(*SCOPE, *FORMAT)
@in_repository
def runs(
    revision: str | None, every: bool, sweep: str, data: str, conditions: tuple[Condition, ...], form: str | None
) -> None:
    """List the runs of a revision, with their MLflow ids.

    Without an argument, lists the runs of the workspace's outs. With one, lists the runs of the outs that DVC recorded
    in that experiment, branch, tag or commit. A run that MLflow lacks is listed as missing.

    \b
    Examples:
      pipeline runs
      pipeline runs main~1
      pipeline runs slower --where 'status != FINISHED'
      pipeline runs --all --json
    """
    from pipeline.tracking import queries

    only_one({"EXPERIMENT|REV": revision, "--all": every, "--sweep": sweep})
    experiment = load().track.experiment
    scope = queries.Scope(None, sweep, data, conditions)
    if every or sweep or (data and not revision):
        rows = queries.runs(experiment, scope)
    else:
        rows = queries.runs_of(experiment, names_of(revision), scope)
    shown = [some(row, (*COLUMNS, "run_id")) for row in rows]
    for row in shown:
        row["git_commit"] = str(row["git_commit"] or "")[:12]
    print_rows(rows, form, shown, OPTIONAL)


def names_of(revision: str | None) -> dict[str, str]:
    """List the runs of a revision, fingerprint -> name."""
    if revision is None and (names := outs.run_names()):
        return names
    from pipeline.commands import revisions

    return revisions.run_names(revision)
