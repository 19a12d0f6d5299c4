"""Options that several commands share: which runs to list, and in which form to print them."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from pipeline.config.params import load
from pipeline.config.where import Condition
from pipeline.errors import InputError
from pipeline.metrics import CHOOSING
from pipeline.runs import outs, sweep
from pipeline.system import tables
from pipeline.system.tables import Row

Command = Callable[..., Any]

SCOPE = (
    click.option("--all", "every", is_flag=True, help="Take all that is stored, of every table and sweep."),
    click.option("--sweep", metavar="ID", default="", help="Take this sweep only: an id from the column `sweep`."),
    click.option(
        "--data", metavar="LABEL", default="", help="Take this table only: its name, or a label from the column `data`."
    ),
    click.option(
        "--where",
        "conditions",
        metavar="CONDITION",
        multiple=True,
        callback=lambda _, __, written: tuple(map(Condition.parse, written)),
        help="Take rows with KEY OPERATOR VALUE only, such as 'lr >= 1e-4'; may be repeated.",
    ),
)
FORMAT = (
    click.option("--json", "form", flag_value="json", help="Print JSON with all digits, and nothing else."),
    click.option("--csv", "form", flag_value="csv", help="Print CSV with all digits, and nothing else."),
)


JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON with all digits, and nothing else.")


def by_metric(option: str, purpose: str) -> Command:
    """Return an option that names a metric; its value is None for evaluate.metric."""
    help_text = f"{purpose}: {', '.join(CHOOSING)} (default: evaluate.metric)."
    return click.option(option, "metric", type=click.Choice(CHOOSING), metavar="METRIC", help=help_text)


def with_options(*options: Command) -> Callable[[Command], Command]:
    """Add options to a command, in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def workspace_runs() -> dict[str, str]:
    """List the workspace's runs, fingerprint -> name: those of its outs or, without outs, those that params.yaml plans.

    Raises:
        InputError: there are neither outs nor prepared data.
    """
    if names := outs.run_names():
        return names
    if outs.PREPARED.exists():
        return {run.fingerprint: run.name for run in sweep.plan(load())}
    raise InputError(
        f"{outs.EVALUATED}: no such file, so this workspace has no sweep; run: dvc repro. "
        "To list the runs that others stored: --all"
    )


def only_one(given: Mapping[str, object]) -> None:
    """Refuse options that exclude each other.

    Raises:
        UsageError: more than one of them is given.
    """
    named = [name for name, value in given.items() if value]
    if len(named) > 1:
        raise click.UsageError(f"{' and '.join(named)} exclude each other")


def print_rows(
    rows: Sequence[Row], form: str | None, shown: Sequence[Row] | None = None, optional: Sequence[str] = ()
) -> None:
    """Print rows in the form asked for.

    Args:
        rows: what JSON and CSV have.
        form: json, csv, or None for a table.
        shown: what a table has; None if it is the same.
        optional: the columns that a narrow table leaves out, in this order.
    """
    left_out: list[str] = []
    if form == "json":
        tables.as_json(rows)
    elif form == "csv":
        tables.as_csv(rows)
    elif not rows:
        click.echo("no runs")
    else:
        left_out = tables.as_table(rows if shown is None else shown, optional)
    sys.stdout.flush()  # what follows on stderr comes after the rows, even if both go to one file
    if left_out:
        click.echo(f"not shown, for lack of width: {', '.join(left_out)}", err=True)


def some(row: Row, keys: Sequence[str]) -> dict[str, object]:
    """Take some of a row's columns."""
    return {key: row.get(key) for key in keys}
