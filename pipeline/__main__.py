"""`pipeline …`: the commands that a person runs besides DVC's. Each stands in a file of pipeline/cli."""

import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click

from pipeline.ending import say_why

# command -> the file in pipeline/cli whose function of this name it is; only that file is loaded to run it.
FILES = {
    "doctor": "upkeep",
    "leaderboard": "results",
    "predict": "models",
    "promote": "models",
    "reproduce": "upkeep",
    "runs": "results",
    "sync": "upkeep",
    "top": "results",
}


class Commands(click.Group):
    """Commands that are loaded when they run, and end with one line at Ctrl-C, as the stages do."""

    def list_commands(self, _: click.Context) -> list[str]:
        """List the commands' names."""
        return sorted(FILES)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        """Load a command; None if there is no such command."""
        if name not in FILES:
            return None
        command: click.Command = getattr(import_module(f"pipeline.cli.{FILES[name]}"), name)
        return command

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


if __name__ == "__main__":
    main()
