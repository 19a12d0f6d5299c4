"""Measures a person's wait with thousands of stored runs: commands, MLflow's pages, and a repeat with nothing to do."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from conftest import serving

from bench.measured import seconds
from bench.rows import Row

MOST = 3.0  # seconds wanted
COMMANDS = (
    ("pipeline", "top"),
    ("pipeline", "leaderboard"),
    ("pipeline", "sync"),
    ("make", "--assume-old", "setup", "repro"),  # a clone has no .venv of its own
)
PAGES = {"by time": "attributes.start_time DESC", "sorted by a metric": "metrics.`cv/mse` ASC"}


def rows(repository: Path, runs: int) -> Iterator[Row]:
    """Measure each three times."""
    for command in COMMANDS:
        elapsed = median(seconds(*command, cwd=repository) for _ in range(3))
        name = " ".join(command).replace("--assume-old setup ", "")
        again = ", nothing to do" if command[-1] in {"sync", "repro"} else ""
        yield Row(f"{name} with {runs:,} runs stored{again}", elapsed, "s", most=MOST)
    with serving(repository) as address:
        for _ in range(12):
            page(address, PAGES["by time"])  # each of the server's processes opens the store once
        for name, order in PAGES.items():
            elapsed = median(page(address, order) for _ in range(3))
            yield Row(f"MLflow's runs page {name} with {runs:,} runs stored", elapsed, "s", most=MOST)


def page(address: str, order: str) -> float:
    """Time the answer to the request of MLflow's page of runs."""
    asked = {
        "experiment_ids": ["1"],
        "max_results": 100,
        "order_by": [order],
        "filter": "",
        "run_view_type": "ACTIVE_ONLY",
    }
    request = urllib.request.Request(
        f"{address}/ajax-api/2.0/mlflow/runs/search", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    begin = time.perf_counter()
    with urllib.request.urlopen(request, timeout=300) as answer:
        found = json.load(answer)["runs"]
    elapsed = time.perf_counter() - begin
    assert len(found) == 100
    return elapsed
