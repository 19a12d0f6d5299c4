"""The command that says what a sweep would do: plan."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pipeline.cli import in_repository

if TYPE_CHECKING:  # it imports torch
    from pipeline.commands.plan import Plan


@click.command()
@click.option(
    "-S", "--set-param", "overrides", metavar="KEY=VALUE", multiple=True, help="As for dvc exp run; repeat it for more."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON with all digits, and nothing else.")
@in_repository
def plan(overrides: Sequence[str], as_json: bool) -> None:
    """Say what a sweep would do, before it runs.

    Counts the sweep's runs and stacks, those that are stored in MLflow, and those that need not train, as DVC's cache
    holds their records. Estimates the time of training from a few epochs here; from what was measured elsewhere, that
    of the whole sweep, stored in a file, and the memory of its processes, beside the table. Lists the learning rates at
    which plain gradient descent is not stable on the table.

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
    """Say what a sweep would do, line by line."""
    from pipeline.system.progress import count, duration

    train = planned.training
    of = f"{count(planned.runs, 'run')} of {count(len(planned.variants), 'variant')}, {count(planned.fits, 'fit')}"
    first = f"; the first round of a search for at most {planned.most:,} runs" if planned.most > planned.runs else ""
    said = [
        f"sweep {planned.sweep}: {of}{first}",
        f"stored    {planned.stored:,} in MLflow",
        f"known     {planned.known:,} in DVC's cache, which need not train again",
    ]
    if not train.stacks:
        return [*said, "to train  nothing"]
    own = f"{count(train.runs, 'run')} in {count(train.stacks, 'stack')}"
    where = "one process" if train.workers == 1 else f"{train.workers:,} processes"
    said.append(f"to train  {own}: about {duration(train.seconds)} in {where}")
    said.append(f"all in all about {duration(train.whole)}, with the stages' start, storing and evaluating")
    said.append(f"memory    about {train.bytes / 2**20:,.0f} MiB at most, of {train.available / 2**20:,.0f} MiB free")
    for one in planned.beyond:
        lrs = ", ".join(f"{lr:g}" for lr in one.lrs)
        said.append(f"unstable  lr {lrs} with batch size {one.batch_size}, stable below {one.stable:.3g}")
    return said
