"""`pipeline sync`: the runs that MLflow lacks."""

import click

from pipeline.cli import in_repository


@click.command()
@in_repository
def sync() -> None:
    """Store the workspace's runs that MLflow lacks.

    For a fresh clone after `dvc pull`, a new tracking server, or a server that was down while a stage ran.
    """
    from pipeline.commands.sync import sync as store_lacking

    print(store_lacking())
