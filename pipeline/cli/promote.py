"""`pipeline promote`: the model that is served."""

import click

from pipeline.cli import RUN, in_repository


@click.command(epilog=RUN)
@click.argument("run", default="", metavar="[RUN]")
@in_repository
def promote(run: str) -> None:
    r"""Make a run's model the champion of its table.

    The run is registered in MLflow, unless it is already, and its version gets the alias `champion`, which
    `pipeline predict` and `mlflow models serve` use. It keeps it, whatever later sweeps find, until you promote
    another; without RUN, the last sweep's champion gets it, and so do those of later sweeps.

    \b
    Examples:
      pipeline promote "$(pipeline top -n 1 | awk 'NR == 2 {print $NF}')"
      pipeline promote
    """
    from pipeline.commands.promote import promote as give_alias

    print(give_alias(run))
