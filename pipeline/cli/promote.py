"""`pipeline promote`: the model that is served."""

import click

from pipeline.cli import RUN, in_repository


@click.command(epilog=RUN)
@click.argument("run", default="", metavar="[RUN]")
@in_repository
def promote(run: str) -> None:
    r"""Make a run's model the champion of its table.

    Registers the run in MLflow, unless it is registered already, and gives its version the alias `champion`, which
    `pipeline predict` and `mlflow models serve` use. The version keeps the alias, whatever later sweeps find, until you
    promote another. Without RUN, the last sweep's champion gets the alias, and later sweeps' champions get it again.

    \b
    Examples:
      pipeline promote "$(pipeline top -n 1 | awk 'NR == 2 {print $NF}')"
      pipeline promote
    """
    from pipeline.commands.promote import promote as give_alias

    print(give_alias(run))
