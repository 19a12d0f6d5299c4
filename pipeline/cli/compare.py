"""`pipeline compare`: two sets of runs, side by side."""

import click

from pipeline.cli import in_repository
from pipeline.cli.options import FORMAT, by_metric, print_rows, with_options
from pipeline.config.params import load


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@with_options(by_metric("--metric", "What to compare"), *FORMAT)
@in_repository
def compare(a: str, b: str, metric: str | None, form: str | None) -> None:
    """Compare two sweeps, experiments or commits.

    A and B are each a sweep's id or its first digits, a DVC experiment, branch, tag or commit, or `workspace`. Sweeps
    are read from MLflow, the others from the outs in DVC's cache.

    Shows the means over the seeds and their difference, A's best configuration first. A star marks a difference that is
    larger than the seeds' spread explains: by a paired t-test over the seeds that both sides have, corrected for the
    number of configurations by Holm's method. Fewer than two seeds in common give no test. A setting that is the same
    for all runs of a side, such as the number of epochs, may differ between the sides.

    \b
    Examples:
      pipeline compare workspace HEAD~1
      pipeline compare main slower --metric cv/r2
      pipeline compare 4f1c02 a821 --csv > compared.csv
    """
    from pipeline.commands import compare as comparing

    params = load()
    found = comparing.compare(a, b, metric or params.evaluate.metric, params.track.experiment)
    print_rows(found.rows, form, comparing.rows_to_show(found.rows))
    if not form:
        click.echo("\n" + "\n".join(found.notes))
