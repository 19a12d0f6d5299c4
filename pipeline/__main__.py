"""`pipeline …`: the commands that a person runs besides DVC's."""

import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from pipeline import outs, repository
from pipeline.ending import say_why
from pipeline.params import METRICS, InputError, load


class Commands(click.Group):
    """Commands that end with one line at Ctrl-C, as the stages do."""

    def invoke(self, context: click.Context) -> None:
        """Run the command that the context names."""
        try:
            super().invoke(context)
        except KeyboardInterrupt as error:  # before click turns it into its own "Aborted!"
            say_why(KeyboardInterrupt, error, None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command."""
    try:
        commands.main(arguments, prog_name="pipeline", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """What DVC and MLflow cannot do alone.

    Run the stages with DVC, look at runs with MLflow; these commands join the two.
    `pipeline COMMAND --help` describes one.
    """
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `pipeline top | head` ends without a traceback
    if any(Path(tempfile.gettempdir()).glob("pipeline-reproduce-*")):
        from pipeline.commands import worktrees

        worktrees.remove_leftovers()


@commands.command()
@click.option("-n", "count", type=click.IntRange(min=1), default=10, metavar="N", help="How many (default: 10).")
@click.option(
    "--by",
    type=click.Choice(METRICS),
    metavar="METRIC",
    help=f"What to rank them by: {', '.join(METRICS)} (default: evaluate.metric).",
)
def top(count: int, by: str | None) -> None:
    r"""Print the best runs, with their MLflow ids.

    The best comes first. Runs that diverged or were altered are never among them. The id is the last column:

    \b
      pipeline top -n 1 | awk 'NR == 2 {print $NF}'
    """
    from pipeline.tracking import queries

    params = load()
    print_table(queries.top(params.track.experiment, by or params.evaluate.metric, count))


@commands.command()
@click.argument("revision", required=False, metavar="[EXPERIMENT|REV]")
def runs(revision: str | None) -> None:
    """List the runs of a revision, with their MLflow ids.

    Without an argument, lists the runs of the workspace's outs; with one, those of the outs that DVC recorded in that
    experiment, branch, tag or commit.
    """
    from pipeline.commands import revisions
    from pipeline.tracking import queries

    experiment = load().track.experiment
    print_table(queries.runs(experiment, revisions.run_names(revision)))


@commands.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN_ID...")
@click.option("--allow-patch", is_flag=True, help="Do not ask before running code that a record holds.")
@click.option(
    "--allow-commit",
    is_flag=True,
    help="Do not ask before running a commit that no local branch, tag or DVC experiment reaches.",
)
def reproduce(run_ids: Sequence[str], allow_patch: bool, allow_commit: bool) -> None:
    """Make runs again from their records, and compare.

    Trains and evaluates each run in a temporary worktree of its commit, with its data and params, and says `identical`,
    `same within rounding`, or what differs. The exit code is 1 if any differs.
    """
    from pipeline.commands.reproduce import reproduce as make_again

    answers = make_again(load().track.experiment, run_ids, allow_patch, allow_commit)
    for run_id, answer in answers.items():
        print(f"{run_id}: {answer.verdict}")
        print("".join(f"  {difference}\n" for difference in answer.differences), end="")
    if any(answer.differences for answer in answers.values()):
        sys.exit(1)


@commands.command()
def sync() -> None:
    """Store the workspace's runs that MLflow lacks.

    For a fresh clone after `dvc pull`, a new tracking server, or a server that was down while a stage ran.
    """
    from pipeline.commands.sync import sync as store_lacking

    print(store_lacking())


@commands.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port (default: 5000, or a free one).")
@click.option("--no-open", is_flag=True, help="Do not open a browser.")
def ui(host: str, port: int | None, no_open: bool) -> None:
    """Serve MLflow's pages, and open the leaderboard.

    Prints and opens a link to the leaderboard of the workspace's data, and serves until Ctrl-C. A --host that other
    machines reach is refused unless MLflow's authentication is set up. If MLFLOW_TRACKING_URI names a server, only
    opens its pages.
    """
    from pipeline.commands.ui import ui as serve

    serve(load().track.experiment, host, port, not no_open)


@commands.command()
@click.option("--deep", is_flag=True, help="Also hash outs, DVC's cache and the records in MLflow.")
@click.option("--mend", is_flag=True, help="Only mend the lock files that a killed DVC left unreadable.")
def doctor(deep: bool, mend: bool) -> None:
    """Check this installation, repository and store.

    Lists what is wrong and how to mend it; the exit code is 1 if anything is.

    With --mend it only looks at DVC's lock files: a dvc.lock that DVC cannot read is restored from git, and a
    half-written .dvc/tmp/rwlock removed, unless DVC is running in this repository. `make repro` does this first.
    """
    if mend:
        if deep:
            raise click.UsageError("--mend only looks at DVC's lock files; run --deep after it")
        mend_locks()
        return
    from pipeline.commands.doctor import examine

    examined = examine(deep)
    for finding in examined.findings:
        print(f"{finding.what}\n  mend: {finding.mend}")
    count = len(examined.findings)
    print(f"{count} findings" if count else f"nothing found; looked at: {examined.looked_at}")
    if count:
        sys.exit(1)


def mend_locks() -> None:
    """Mend DVC's lock files, and print what was done."""
    from pipeline.commands import locks

    root = repository.root()
    if not (root / ".dvc").is_dir():
        raise InputError("no repository is here: no folder above has .dvc in it")
    print("\n".join(locks.mend(root)) or "DVC's lock files: nothing to mend")


@commands.command()
def leaderboard() -> None:
    """Print the last sweep's configurations, best first.

    Each metric is the mean over the seeds ± its standard deviation.
    """
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


if __name__ == "__main__":
    main()
