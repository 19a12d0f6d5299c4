"""`pipeline plan`: what a sweep would do."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pipeline.cli import in_repository
from pipeline.cli.options import JSON

if TYPE_CHECKING:  # it imports torch
    from pipeline.commands.plan import Plan


@click.command()
@click.option(
    "-S", "--set-param", "overrides", metavar="KEY=VALUE", multiple=True, help="As for dvc exp run; may be repeated."
)
@JSON
@in_repository
def plan(overrides: Sequence[str], as_json: bool) -> None:
    """Show what a sweep would do, before it runs.

    Counts the sweep's runs and stacks, the runs that MLflow already has, and those that need no training because DVC's
    cache has their records. Estimates the training time from a few epochs on this machine, and, from measurements on
    another, the time of the whole sweep with a store in a file, and the memory of its processes without the table.
    Lists the learning rates at which plain gradient descent is unstable on the table.

    \b
    Examples:
      pipeline plan
      pipeline plan -S train.epochs=500 -S 'sweep.lr=[1e-6,1e-5,1e-4]'
      pipeline plan -S 'train.epochs=100,200' --json
    """
    from pipeline.commands import plan as planning

    planned = [(changed, planning.plan(params)) for changed, params in planning.overridden(overrides)]
    if as_json:
        print(json.dumps([{"set": changed, **asdict(one)} for changed, one in planned], indent=2, allow_nan=False))
        return
    for place, (changed, one) in enumerate(planned):
        print("\n" * bool(place) + "\n".join([*([changed] if len(planned) > 1 else []), *lines(one)]))


def lines(planned: "Plan") -> list[str]:
    """Describe a plan, line by line."""
    from pipeline.system.progress import count, duration

    train = planned.training
    of = f"{count(planned.runs, 'run')} of {count(len(planned.variants), 'variant')}, {count(planned.fits, 'fit')}"
    first = f"; the first round of a search for at most {planned.most:,} runs" if planned.most > planned.runs else ""
    described = [
        f"sweep {planned.sweep}: {of}{first}",
        f"stored    {planned.stored:,} in MLflow",
        f"known     {planned.known:,} in DVC's cache, which need no training",
    ]
    if not train.stacks:
        return [*described, "to train  nothing"]
    own = f"{count(train.runs, 'run')} in {count(train.stacks, 'stack')}"
    where = "one process" if train.workers == 1 else f"{train.workers:,} processes"
    described.append(f"to train  {own}: about {duration(train.seconds)} in {where}")
    described.append(f"all in all about {duration(train.whole)}, with the stages' start, storing and evaluating")
    described.append(
        f"memory    about {train.bytes / 2**20:,.0f} MiB at most, of {train.available / 2**20:,.0f} MiB free"
    )
    for one in planned.beyond:
        lrs = ", ".join(f"{lr:g}" for lr in one.lrs)
        described.append(f"unstable  lr {lrs} with batch size {one.batch_size}, stable below {one.stable:.3g}")
    return described
