"""`pipeline reproduce`: runs made again from their records."""

import sys
from collections.abc import Sequence

import click

from pipeline.cli import in_repository


@click.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN...")
@click.option("--allow-patch", is_flag=True, help="Run code that a record contains, without asking.")
@click.option(
    "--allow-commit",
    is_flag=True,
    help="Run a commit that no local branch, tag or DVC experiment reaches, without asking.",
)
@in_repository
def reproduce(run_ids: Sequence[str], allow_patch: bool, allow_commit: bool) -> None:
    """Make runs again from their records, and compare.

    RUN is a run id of MLflow, a fingerprint, or at least the first 8 digits of either.

    Trains and evaluates each run in a temporary worktree of its commit, with its data and params. Prints `identical`,
    `same within rounding`, or what differs. The exit code is 1 if any run differs.

    \b
    Examples:
      pipeline reproduce 1a2b3c4d
      pipeline reproduce $(pipeline top -n 3 | awk 'NR > 1 {print $NF}')
    """
    from pipeline.commands.reproduce import reproduce as make_again
    from pipeline.config.params import load

    answers = make_again(load().track.experiment, run_ids, allow_patch, allow_commit)
    for run_id, answer in answers.items():
        print(f"{run_id}: {answer.verdict}")
        print("".join(f"  {difference}\n" for difference in answer.differences), end="")
    if any(answer.differences for answer in answers.values()):
        sys.exit(1)
