"""`pipeline ui`: MLflow's pages."""

import click

from pipeline.cli import in_repository


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port (default: 5000, or a free one).")
@click.option("--no-open", is_flag=True, help="Do not open a browser.")
@in_repository
def ui(host: str, port: int | None, no_open: bool) -> None:
    """Serve MLflow's pages, and open the leaderboard.

    Prints and opens a link to the leaderboard of the workspace's data, and serves until Ctrl-C. A --host that other
    machines reach is refused unless MLflow's authentication is set up. If MLFLOW_TRACKING_URI names a server, the
    command only opens its pages.
    """
    from pipeline.commands.ui import ui as serve
    from pipeline.config.params import load

    serve(load().track.experiment, host, port, not no_open)
