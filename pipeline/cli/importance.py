"""`pipeline importance`: which axes of a sweep mattered."""

import click

from pipeline.cli import in_repository
from pipeline.cli.options import FORMAT, by_metric, print_rows, with_options
from pipeline.config.params import load
from pipeline.runs import outs


@click.command()
@with_options(by_metric("--by", "What the axes mattered to"), *FORMAT)
@in_repository
def importance(metric: str | None, form: str | None) -> None:
    """Print how much each axis of the last sweep mattered.

    The importance, from 0 to 1, is ε² of the Kruskal-Wallis test: the share of the variance of the runs' ranks that the
    axis alone explains. Interactions of axes and chance explain the rest. An axis of many numbers is divided into at
    most 10 groups.

    \b
    Examples:
      pipeline importance
      pipeline importance --by train/mse --json
    """
    from pipeline.evaluation import importance as measured
    from pipeline.runs.records import read_evaluated

    params = load()
    with outs.required():
        evaluated = read_evaluated(params.variants)
    found = measured.importance(evaluated, metric or params.evaluate.metric)
    print_rows([{"axis": axis, "importance": value} for axis, value in found.items()], form)
