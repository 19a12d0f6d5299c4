"""The metrics of a sweep's own run: its champion's, and how many runs there are. Does not import MLflow."""

from collections.abc import Sequence

from pipeline.metrics import COST, FINAL, NESTED, RUN_METRICS, rounded, summarized
from pipeline.runs.records import Record

RUNS, DIVERGED, CHAMPION_RUNS = "sweep/runs", "sweep/diverged", "champion/runs"
FINAL_MSE = f"champion/{FINAL[0]}"
NAMES = frozenset(
    {
        *(RUNS, DIVERGED, CHAMPION_RUNS, *(f"champion/{key}" for key in FINAL), *NESTED, COST),
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
        mean, deviation = summarized(record.metrics[key] for record in best if key in record.metrics)
        found |= {f"champion/{key}": mean, f"champion/{key} std": deviation}
    return rounded(found)  # as many digits as the leaderboard has
