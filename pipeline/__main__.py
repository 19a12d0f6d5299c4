"""`pipeline …`: what a person runs besides dvc."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline import outs
from pipeline.params import METRICS, InputError, load


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(prog="pipeline", description="What DVC and MLflow lack together.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    top = commands.add_parser("top", help="print the best runs, with their MLflow ids")
    top.add_argument("-n", type=_count, default=10, metavar="N", help="how many (default: %(default)s)")
    top.add_argument("--by", choices=METRICS, metavar="METRIC", help=f"{', '.join(METRICS)} (default: evaluate.metric)")
    runs = commands.add_parser("runs", help="list the MLflow runs of the workspace, a DVC experiment or a commit")
    runs.add_argument("revision", nargs="?", metavar="EXPERIMENT|REV")
    reproduce = commands.add_parser("reproduce", help="make runs again from their records, and compare")
    reproduce.add_argument("run_id", nargs="+", metavar="RUN_ID")
    reproduce.add_argument("--allow-patch", action="store_true", help="run code that a record holds, unasked")
    unreached = "run a commit that no local branch, tag or DVC experiment reaches, unasked"
    reproduce.add_argument("--allow-commit", action="store_true", help=unreached)
    commands.add_parser("sync", help="store in MLflow what the workspace's outs hold and the store lacks")
    doctor = commands.add_parser("doctor", help="check this installation, repository and store")
    doctor.add_argument("--deep", action="store_true", help="hash outs, DVC's cache and the records in MLflow as well")
    commands.add_parser("leaderboard", help="print the last sweep's configurations, best first")
    options = parser.parse_args(arguments)
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `pipeline top | head` ends without a traceback
    if any(Path(tempfile.gettempdir()).glob("pipeline-reproduce-*")):
        from pipeline.commands import worktrees

        worktrees.remove_leftovers()
    if options.command == "leaderboard":
        print_leaderboard()
    elif options.command == "doctor":
        print_findings(options.deep)
    elif options.command == "sync":
        from pipeline.commands.sync import sync

        print(sync())
    elif options.command == "reproduce":
        print_differences(options.run_id, options.allow_patch, options.allow_commit)
    else:
        from pipeline.commands import revisions
        from pipeline.tracking import queries

        params = load()
        experiment = params.track.experiment
        if options.command == "top":
            print_table(queries.top(experiment, options.by or params.evaluate.metric, options.n))
        else:
            print_table(queries.runs(experiment, revisions.run_names(options.revision)))


def print_differences(run_ids: Sequence[str], allow_patch: bool, allow_commit: bool) -> None:
    """Make runs again and print whether they are the same; exit code 1 where one differs."""
    from pipeline.commands.reproduce import reproduce

    answers = reproduce(load().track.experiment, run_ids, allow_patch, allow_commit)
    for run_id, answer in answers.items():
        print(f"{run_id}: {answer.verdict}")
        print("".join(f"  {difference}\n" for difference in answer.differences), end="")
    if any(answer.differences for answer in answers.values()):
        sys.exit(1)


def print_findings(deep: bool) -> None:
    """Print what is wrong and how to mend it; exit code 1 where there is anything."""
    from pipeline.commands.doctor import examine

    examined = examine(deep)
    for finding in examined.findings:
        print(f"{finding.what}\n  mend: {finding.mend}")
    count = len(examined.findings)
    print(f"{count} findings" if count else f"nothing found; looked at: {examined.looked_at}")
    if count:
        sys.exit(1)


def print_leaderboard() -> None:
    """Print leaderboard.csv: the mean of each figure over the seeds, and its standard deviation."""
    if not outs.LEADERBOARD.exists():
        raise InputError(f"{outs.LEADERBOARD}: no such file here; run: dvc repro")
    rows = []
    for row in outs.read_csv(outs.LEADERBOARD):
        shown = {key: row[key] for key in ("configuration", "runs", "diverged")}
        for metric in METRICS:
            mean, std = row[f"{metric} mean"], row[f"{metric} std"]
            shown[metric] = f"{float(mean):.6g}" + (f" ± {float(std):.2g}" if std else "") if mean else ""
        rows.append(shown)
    print_table(rows)


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """Print rows under their keys, columns aligned."""
    if not rows:
        print("no runs")
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, takes a whole number, 1 or more")
    return int(text)


if __name__ == "__main__":
    main()
