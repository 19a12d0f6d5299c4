"""Where the stages' outs lie, and how they are written: whole or not at all, the same bytes every time."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.system import repository
from pipeline.system.files import read_csv

PREPARED = Path("data/prepared/tensors.safetensors")
SUMMARY = Path("data/prepared/summary.json")
TRAINED = Path("data/trained")  # one folder per variant
EVALUATED = Path("data/evaluated/runs.csv")
LEADERBOARD = Path("leaderboard.csv")
METRICS = Path("metrics.json")
PLOTS = Path("plots")
REPORT = Path("report.html")


@contextmanager
def required() -> Iterator[None]:
    """Read outs, and say how to get them if one is missing.

    Raises:
        InputError: a file is missing.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or error}: no such file; {repository.make_or_pull()}") from error


def evaluation() -> list[Path]:
    """List the files that evaluate writes for people; MLflow keeps them with the sweep."""
    report = [REPORT] if REPORT.exists() else []  # outs of earlier versions have none
    return [LEADERBOARD, METRICS, *report, *sorted(PLOTS.glob("*"))]


def run_names() -> dict[str, str]:
    """List the evaluated runs, fingerprint -> name; none without outs."""
    rows = read_csv(EVALUATED) if EVALUATED.exists() else []
    return {row["fingerprint"]: row["name"] for row in rows}


def study(variant: str) -> Path:
    """Return where a variant's searched trials lie."""
    return TRAINED / variant / "study.json"


def summary() -> dict[str, Any]:
    """Read metrics.json."""
    read: dict[str, Any] = json.loads(METRICS.read_text(encoding="utf-8"))
    return read


def champion() -> str:
    """Return the champion's configuration from metrics.json; empty if every run diverged."""
    return str(summary()["champion"].get("configuration", ""))


def final() -> dict[str, float]:
    """Return what metrics.json says of the champion on the final rows; empty if there are none."""
    return {key: float(value) for key, value in summary()["champion"].items() if key.startswith("final/")}


def nested() -> dict[str, float]:
    """Return what metrics.json says of choosing, by nested cross-validation; empty if nobody asked."""
    return {key: float(value) for key, value in summary().get("nested", {}).items() if key.startswith("nested/")}
