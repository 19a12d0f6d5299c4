"""The commands that use a sweep's best model: predict and promote."""

import sys
from pathlib import Path

import click

from pipeline.cli import in_repository

RUN = "RUN is a run id of MLflow, a fingerprint, or at least the first 8 digits of either."


@click.command(epilog=RUN)
@click.argument("file", type=click.Path(path_type=Path, resolve_path=True), metavar="FILE")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, resolve_path=True),
    metavar="FILE",
    help="Write there, not to standard output.",
)
@click.option("--run", default="", metavar="RUN", help="Predict with this run's model.")
@click.option(
    "--version", type=click.IntRange(min=1), metavar="N", help="Predict with this version of the registered model."
)
@in_repository
def predict(file: Path, output: Path | None, run: str, version: int | None) -> None:
    r"""Predict the target for each row of a CSV file.

    Writes FILE's columns and one more, TARGET_pred, in the target's unit. The features are found by name, in the units
    of the table that the model was trained on; other columns are only copied. By default the champion of params.yaml's
    table predicts.

    FILE may be compressed, and of any size. If a cell is not a number, nothing is written.

    \b
    Examples:
      pipeline predict new.csv -o predicted.csv
      pipeline predict new.csv.gz --run 4f1c02aa | head
    """
    from pipeline.commands.predict import predict as write_predictions

    if run and version:
        raise click.UsageError("--run and --version both name the model; give one")
    print(write_predictions(file, output, run, version), file=sys.stderr)


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
