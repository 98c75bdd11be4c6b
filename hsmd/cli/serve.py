"""`hsmd serve`: run the daemon."""

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
            help="Write the listen addresses to this descriptor as one JSON line when ready.",
        ),
    ] = None,
) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Open requests are completed before it stops. SIGHUP reloads the configuration. The log goes to standard error, one JSON
    object per line. `hsmd init` creates the configuration.
    """
    from hsmd.daemon.launcher.app import serve as run_daemon

    def ready(notice: dict[str, Any]) -> None:
        if ready_fd is not None:
            os.write(ready_fd, json.dumps(notice).encode() + b"\n")
            os.close(ready_fd)

    code = run_daemon(config.absolute(), ready=ready)
    if code != 0:
        raise typer.Exit(code)
