"""`pipeline show`: one run."""

import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from shutil import get_terminal_size

import click

from pipeline.cli import in_repository
from pipeline.cli.options import JSON
from pipeline.config.params import load
from pipeline.errors import printable


@click.command()
@click.argument("run", required=False, metavar="[RUN]")
@JSON
@in_repository
def show(run: str | None, as_json: bool) -> None:
    """Print one run: its formula, figures, curve and origin.

    RUN is a run id of MLflow, a fingerprint, or at least the first 8 digits of either. Without it, the champion's best
    run is shown. A fingerprint of the workspace's outs is read from them; any other run is read from MLflow.

    The formula is in the table's units, even if the features were standardized.

    \b
    Examples:
      pipeline show
      pipeline show 1a2b3c4d
      pipeline show $(pipeline top -n 1 --by cv/r2 | awk 'NR == 2 {print $NF}')
      pipeline show --json | python -c 'import json, sys; print(json.load(sys.stdin)["weights"])'
    """
    from pipeline.commands import show as shown

    params = load()
    by_fingerprint = run is None or re.fullmatch(f"[0-9a-f]{{{shown.PREFIX},32}}", run)
    about = (shown.in_workspace(params, run) if by_fingerprint else None) or shown.in_store(
        params.track.experiment, run or ""
    )
    if as_json:
        print(json.dumps(asdict(about), indent=2, allow_nan=False))
        return
    parameters = ", ".join(f"{printable(name)} {tuple(shape)}" for name, shape in about.shapes.items())
    model = shown.formula(about) if about.weights else f"not linear; its parameters: {parameters or 'not stored'}"
    width = min(100, get_terminal_size().columns)
    print(f"{about.name}: {about.status}\n")
    print(textwrap.fill(model, width, subsequent_indent="    ", break_long_words=False))
    print()
    print_pairs({key: f"{value:.6g}" for key, value in about.metrics.items()})
    if about.curve:
        print("\ntrain/mse")
        print("\n".join(shown.plot(about.curve, width)))
    print()
    print_pairs({key: printable(value) for key, value in about.configuration.items()})
    print()
    print_pairs({**about.origin, "reproduce": f"pipeline reproduce {about.origin['fingerprint']}"})


def print_pairs(pairs: Mapping[str, str]) -> None:
    """Print names and values in two columns, without the empty values."""
    margin = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        if value:
            print(f"{name:{margin}}  {value}")
