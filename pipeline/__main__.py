"""`pipeline …`: the commands that a person runs besides DVC's. Each is the file of its name in pipeline/cli."""

import gc
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

import click

from pipeline.errors import say_why

FOLDER = Path(__file__).with_name("cli")


class Commands(click.Group):
    """Commands that are loaded when they run, and end with one line at Ctrl-C, as the stages do."""

    def list_commands(self, _: click.Context) -> list[str]:
        """List the commands' names."""
        return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in {"__init__", "options"})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Load a command; None if there is no such command."""
        if name not in self.list_commands(context):
            return None
        command: click.Command = getattr(import_module(f"pipeline.cli.{name}"), name)
        return command

    def invoke(self, context: click.Context) -> None:
        """Run the command that the context names."""
        try:
            super().invoke(context)
        except KeyboardInterrupt as error:  # before click turns it into its own "Aborted!"
            say_why(KeyboardInterrupt, error, None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without · and ± gets ?
    gc.set_threshold(1_000_000)  # loading MLflow makes a million objects that stay: to look through them takes 0.6 s
    try:
        commands.main(arguments, prog_name="pipeline", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="four-way-regression", message="%(prog)s %(version)s", help="Print the version.")
def commands() -> None:
    """What DVC and MLflow cannot do alone.

    Run the stages with DVC, look at runs with MLflow; these commands join the two. They work in any folder of the
    repository. `pipeline COMMAND --help` describes one, with examples.

    \b
    After a first `dvc repro`:
      pipeline leaderboard        the configurations, best first
      pipeline show               the best run: its formula, figures, curve and origin
      pipeline top -n 5           the best runs, with their MLflow ids
      pipeline compare A B        two sweeps, experiments or commits, side by side
      pipeline reproduce RUN      make a run again from its record, and compare
    """
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `pipeline top | head` ends without a traceback
    if any(Path(tempfile.gettempdir()).glob("pipeline-reproduce-*")):
        from pipeline.commands import worktrees

        worktrees.remove_leftovers()


if __name__ == "__main__":
    main()
