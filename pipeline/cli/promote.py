"""`pipeline promote`: the model that is served."""

import click

from pipeline.cli import RUN, in_repository
from pipeline.config.params import load
from pipeline.errors import InputError
from pipeline.runs import outs


@click.command(epilog=RUN)
@click.argument("run", default="", metavar="[RUN]")
@in_repository
def promote(run: str) -> None:
    """Make a run's model the champion of its table.

    Registers the run in MLflow, unless it is registered already, and gives its version the alias `champion`, which
    `pipeline predict` and `mlflow models serve` use. The version keeps the alias, whatever later sweeps find, until you
    promote another. Without RUN, the last sweep's champion gets the alias, and later sweeps' champions get it again.

    \b
    Examples:
      pipeline promote "$(pipeline top -n 1 | awk 'NR == 2 {print $NF}')"
      pipeline promote
    """
    from pipeline.runs.records import read_evaluated
    from pipeline.tracking import models

    params = load()
    if run:
        print(models.promote(params, run))
        return
    with outs.required():
        evaluated, champion = read_evaluated(params.variants), outs.champion()
    if not champion:
        raise InputError(f"{outs.METRICS}: there is no champion, as every run diverged")
    done = models.update(params, evaluated, champion, insist=True)
    print(done or "the sweep's champion is the version that is served already")
