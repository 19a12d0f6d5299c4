"""`pipeline doctor`: what is wrong with the installation, repository and store."""

import sys
from contextlib import suppress

import click

from pipeline.errors import InputError
from pipeline.system import repository


@click.command()
@click.option("--deep", is_flag=True, help="Also hash outs, DVC's cache and the records in MLflow.")
@click.option("--mend", is_flag=True, help="Only mend the lock files that a killed DVC left unreadable.")
def doctor(deep: bool, mend: bool) -> None:
    """Check this installation, repository and store.

    Lists what is wrong and how to mend it. The exit code is 1 if anything is wrong.

    --mend only looks at DVC's lock files. Unless DVC is running in this repository, it restores from git a dvc.lock
    that DVC cannot read, and removes a half-written .dvc/tmp/rwlock. `make repro` does this first.
    """
    if mend:
        if deep:
            raise click.UsageError("--mend only looks at DVC's lock files; run --deep after it")
        from pipeline.commands import locks

        repository.enter()
        print("\n".join(locks.mend(repository.root())) or "DVC's lock files: nothing to mend")
        return
    from pipeline.commands.doctor import examine

    with suppress(InputError):  # outside a repository, only the installation is examined
        repository.enter()
    examined = examine(deep)
    for finding in examined.findings:
        print(f"{finding.what}\n  mend: {finding.mend}")
    count = len(examined.findings)
    print(f"{count} findings" if count else f"nothing found; looked at: {examined.looked_at}")
    if count:
        sys.exit(1)
