"""`pipeline completion`: a script that makes a shell complete the commands."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that makes a shell complete this command line.

    \b
    Examples, for this shell only:
      eval "$(pipeline completion bash)"
      eval "$(pipeline completion zsh)"
      pipeline completion fish | source

    To have it in every shell, add the line to ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish.
    """
    found = get_completion_class(shell)
    assert found is not None  # click has all three
    click.echo(found(context.find_root().command, {}, "pipeline", "_PIPELINE_COMPLETE").source())
