"""Measures what the storing process gains: whole sweeps with it, in turn with sweeps that store in their stages."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from conftest import run

from bench.measured import cloned, cost, experiment
from bench.rows import Row
from bench.sweeps import MANY

SWEEPS = {"dvc repro, 48 runs": ["dvc", "repro"], "dvc exp run, 1,008 runs": experiment(*MANY)}
HERE = "\nfrom stored_here import Here as Tracker, nothing as launch_ahead  # noqa\n"
TURNS = 5


def rows() -> Iterator[Row]:
    """Measure both in turn, each time with an empty store."""
    for name, command in SWEEPS.items():
        turns = [(sweep(command, HERE), sweep(command, "")) for _ in range(TURNS)]
        here, apart = (median(times) for times in zip(*turns, strict=True))
        yield Row(f"{name}, stored by a process of its own (median of {TURNS})", apart, "s")
        yield Row(f"{name}, stored in the stages", here, "s")
        yield Row("  in the stages ÷ by a process of its own", here / apart, "×")


def sweep(command: list[str], addition: str) -> float:
    """Return a sweep's seconds, with a line added to the module that sends runs to the storing process."""
    with cloned() as repository:
        file = repository / "pipeline/tracking/tracker.py"
        file.write_text(file.read_text(encoding="utf-8") + addition, encoding="utf-8")
        (repository / "stored_here.py").write_bytes((Path(__file__).parent / "stored_here.py").read_bytes())
        run("git", "add", "--all", cwd=repository)
        run("git", "commit", "--quiet", "--allow-empty", "--message", "Where runs are stored", cwd=repository)
        return cost(command, repository).seconds
