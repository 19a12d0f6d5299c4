"""The commands that keep records true: reproduce, sync and doctor."""

import sys
from collections.abc import Sequence
from contextlib import suppress

import click

from pipeline.cli import in_repository
from pipeline.errors import InputError
from pipeline.system import repository


@click.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN...")
@click.option("--allow-patch", is_flag=True, help="Do not ask before running code that a record holds.")
@click.option(
    "--allow-commit",
    is_flag=True,
    help="Do not ask before running a commit that no local branch, tag or DVC experiment reaches.",
)
@in_repository
def reproduce(run_ids: Sequence[str], allow_patch: bool, allow_commit: bool) -> None:
    """Make runs again from their records, and compare.

    RUN is a run id of MLflow, a fingerprint, or at least the first 8 digits of either.

    Trains and evaluates each run in a temporary worktree of its commit, with its data and params, and says `identical`,
    `same within rounding`, or what differs. The exit code is 1 if any differs.

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


@click.command()
@in_repository
def sync() -> None:
    """Store the workspace's runs that MLflow lacks.

    For a fresh clone after `dvc pull`, a new tracking server, or a server that was down while a stage ran.
    """
    from pipeline.commands.sync import sync as store_lacking

    print(store_lacking())


@click.command()
@click.option("--deep", is_flag=True, help="Also hash outs, DVC's cache and the records in MLflow.")
@click.option("--mend", is_flag=True, help="Only mend the lock files that a killed DVC left unreadable.")
def doctor(deep: bool, mend: bool) -> None:
    """Check this installation, repository and store.

    Lists what is wrong and how to mend it; the exit code is 1 if anything is.

    With --mend it only looks at DVC's lock files: a dvc.lock that DVC cannot read is restored from git, and a
    half-written .dvc/tmp/rwlock removed, unless DVC is running in this repository. `make repro` does this first.
    """
    if mend:
        if deep:
            raise click.UsageError("--mend only looks at DVC's lock files; run --deep after it")
        mend_locks()
        return
    from pipeline.commands.doctor import examine

    with suppress(InputError):  # outside of a repository it looks at the installation
        repository.enter()
    examined = examine(deep)
    for finding in examined.findings:
        print(f"{finding.what}\n  mend: {finding.mend}")
    count = len(examined.findings)
    print(f"{count} findings" if count else f"nothing found; looked at: {examined.looked_at}")
    if count:
        sys.exit(1)


@in_repository
def mend_locks() -> None:
    """Mend DVC's lock files, and print what was done."""
    from pipeline.commands import locks

    print("\n".join(locks.mend(repository.root())) or "DVC's lock files: nothing to mend")
