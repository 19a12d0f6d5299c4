"""`pipeline predict`: a table's predictions."""

import sys
from pathlib import Path

import click

from pipeline.cli import RUN, in_repository


@click.command(epilog=RUN)
@click.argument("file", type=click.Path(path_type=Path, resolve_path=True), metavar="FILE")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, resolve_path=True),
    metavar="FILE",
    help="Write to this file instead of standard output.",
)
@click.option("--run", default="", metavar="RUN", help="Predict with this run's model.")
@click.option(
    "--version", type=click.IntRange(min=1), metavar="N", help="Predict with this version of the registered model."
)
@in_repository
def predict(file: Path, output: Path | None, run: str, version: int | None) -> None:
    """Predict the target for each row of a CSV file.

    Writes FILE's columns and one more, TARGET_pred, in the target's unit. The features are found by name, and must have
    the units of the table that the model was trained on. Other columns are copied. The default model is the champion of
    the table in params.yaml.

    FILE may be compressed, and of any size. If a feature is not a number, nothing is written.

    \b
    Examples:
      pipeline predict new.csv -o predicted.csv
      pipeline predict new.csv.gz --run 4f1c02aa | head
    """
    from pipeline.commands.predict import predict as write_predictions

    if run and version:
        raise click.UsageError("--run and --version both name the model; give one")
    print(write_predictions(file, output, run, version), file=sys.stderr)
