"""`pipeline sync`: the runs that MLflow lacks."""

import click

from pipeline.cli import in_repository


@click.command()
@in_repository
def sync() -> None:
    """Store the runs of the workspace that MLflow lacks.

    Use it in a fresh clone after `dvc pull`, with a new tracking server, or after a server was down while a stage ran.
    """
    from pipeline.commands.sync import sync as store_lacking

    print(store_lacking())
