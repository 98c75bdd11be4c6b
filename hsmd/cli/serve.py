"""`hsmd serve`: the daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.output import Output

app = typer.Typer(add_completion=False)


@command(app, "serve", example="hsmd serve --config /etc/hsmd/hsmd.toml")
def serve(
    output: Output,
    config: Annotated[
        Path, typer.Option("--config", "-c", metavar="FILE", help="Configuration file.")
    ] = Path("hsmd.toml"),
    ready_fd: Annotated[
        int | None,
        typer.Option(
            "--ready-fd",
            min=3,
            metavar="FD",
            help="Write the addresses as one JSON line there once it serves.",
        ),
    ] = None,
) -> None:
    """Run the daemon until it is told to stop.

    SIGTERM and SIGINT let open requests end first, SIGHUP reads the configuration again. The log goes to standard error, one
    JSON object per line. `hsmd init` makes the configuration.
    """
    from hsmd.daemon.launcher.app import serve as run_daemon

    def ready(notice: dict[str, Any]) -> None:
        if ready_fd is not None:
            os.write(ready_fd, json.dumps(notice).encode() + b"\n")
            os.close(ready_fd)

    code = run_daemon(config.absolute(), ready=ready)
    if code != 0:
        raise typer.Exit(code)
