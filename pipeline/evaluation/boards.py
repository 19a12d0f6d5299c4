"""A written leaderboard as rows to print; takes no pandas, which loads in 0.3 s."""

from collections.abc import Mapping, Sequence

from pipeline.config.where import number
from pipeline.evaluation.choice import costs, lucky
from pipeline.metrics import CHOOSING
from pipeline.runs import outs
from pipeline.system.files import read_csv
from pipeline.system.tables import Row, as_table, measured

OPTIONAL = (
    "excess_mse",
    "cv/mae",
    "train/mse",
    "folds",
    "runs",
    "tested rows",
    "cv/r2",
    "sweep",
    "behind",
    "diverged",
)  # those to leave out first come first


def configuration(line: Mapping[str, str]) -> dict[str, object]:
    """Read a line of leaderboard.csv: numbers as numbers, None for an empty cell."""
    return {key: number(cell) if cell else None for key, cell in line.items() if isinstance(key, str)}


def rows_to_show(rows: Sequence[Row]) -> list[Row]:
    """Return what people see of configurations: each metric as its mean ± standard deviation (se standard error)."""
    shown: list[Row] = []
    for row in rows:
        cells = {
            key: row.get(key)
            for key in ("configuration", "data", "sweep", "runs", "diverged", "behind", "tested rows", "folds")
        }
        for metric in CHOOSING:
            mean, std, error = (row.get(f"{metric} {kind}") for kind in ("mean", "std", "se"))
            cells[metric] = measured(mean, std, error)
        shown.append(cells | ({"seal": row["seal"]} if row.get("seal") == "altered" else {}))
    return shown


def print_best(command: str, most: int = 10) -> None:
    """Print the first lines of the written leaderboard, fitted to the terminal, and which command lists the rest."""
    rows = [configuration(line) for line in read_csv(outs.LEADERBOARD)]
    print()
    as_table(rows_to_show(rows[:most]), OPTIONAL)
    if len(rows) > most:
        print(f"… and {len(rows) - most:,} more: {command}")
    if not any(row["runs"] for row in rows):
        print("there is no champion: every run diverged; try a smaller sweep.lr, or data.standardize=true")
    if said := costs(outs.summary()):
        print(said)
    if rows and (said := lucky(len(rows), rows[0].get("tested rows"))):
        print(said)
