"""The metrics of a sweep's own run: its champion's, and how many runs there are. Does not import MLflow."""

import statistics
from collections.abc import Sequence

from pipeline.config.params import HIGHER_IS_BETTER
from pipeline.runs.records import FINAL, NESTED, RUN_METRICS, Record

RUNS, DIVERGED, CHAMPION_RUNS = "sweep/runs", "sweep/diverged", "champion/runs"
FINAL_MSE = f"champion/{FINAL[0]}"
NAMES = frozenset(
    {
        *(RUNS, DIVERGED, CHAMPION_RUNS, *(f"champion/{key}" for key in FINAL), *NESTED, "nested/cost"),
        *(f"champion/{key}{kind}" for key in RUN_METRICS for kind in ("", " std")),
    }
)


def compute(evaluated: Sequence[Record], champion: str) -> dict[str, float]:
    """Return the champion's means and standard deviations over the seeds, and counts of runs.

    Args:
        evaluated: all runs of the sweep.
        champion: its configuration, empty if every run diverged.
    """
    best = [record for record in evaluated if record.run.configuration == champion and record.is_whole]
    diverged = sum(bool(record.diverged) for record in evaluated)
    found = {RUNS: float(len(evaluated)), DIVERGED: float(diverged), CHAMPION_RUNS: float(len(best))}
    for key in RUN_METRICS:
        values = [record.metrics[key] for record in best if key in record.metrics]
        found |= {f"champion/{key}": statistics.fmean(values)} if values else {}
        found |= {f"champion/{key} std": statistics.stdev(values)} if len(values) > 1 else {}
    return {key: float(f"{value:.9g}") for key, value in found.items()}  # as many digits as the leaderboard has


def best_run(evaluated: Sequence[Record], champion: str, metric: str) -> Record | None:
    """Choose the champion's best run by a metric; None if every run diverged."""
    sign = -1 if metric in HIGHER_IS_BETTER else 1
    runs = [record for record in evaluated if record.run.configuration == champion and metric in record.metrics]
    return min(runs, key=lambda record: sign * record.metrics[metric], default=None)
