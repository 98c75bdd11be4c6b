"""`hsmd serve`: run the daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hsmd.cli.base import systemd
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output

app = typer.Typer(add_completion=False)


@command(
    app,
    "serve",
    example="hsmd serve --config /etc/hsmd/hsmd.toml\nhsmd serve --config /etc/hsmd/hsmd.toml --check",
)
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
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Start nothing; check whether the daemon could start with this configuration."
        ),
    ] = False,
    without_tokens: Annotated[
        bool,
        typer.Option("--without-tokens", help="With --check: leave the tokens out, as before a reload."),
    ] = False,
    login: Annotated[
        bool,
        typer.Option(
            "--login", help="With --check: also log in to the tokens, which uses one try of a wrong PIN."
        ),
    ] = False,
) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Open requests are completed before it stops. SIGHUP reloads the configuration. The log goes to standard error, one JSON
    object per line. `hsmd init` creates the configuration.

    --check looks at the configuration, users, files, addresses, store, modules and tokens, as the users that will need them,
    and changes nothing. Exit code 4 means that there is a problem, 2 that the file is wrong. `systemctl reload hsmd` runs it.
    """
    if (login or without_tokens) and (not check or (login and without_tokens)):
        raise CommandError(
            "--login or --without-tokens goes with --check", "give --check and one of them", Exit.USAGE
        )
    if check:
        _check(output, config.absolute(), tokens=not without_tokens, login=login)
        return
    from hsmd.daemon.launcher.app import serve as run_daemon

    def ready(notice: dict[str, Any]) -> None:
        if ready_fd is not None:
            os.write(ready_fd, json.dumps(notice).encode() + b"\n")
            os.close(ready_fd)

    code = run_daemon(config.absolute(), ready=ready)
    if code != 0:
        raise typer.Exit(code)


def _check(output: Output, config: Path, *, tokens: bool, login: bool) -> None:
    from hsmd.cli.agent.check_results import Finding, report
    from hsmd.daemon.launcher.start_check import check

    outside = "CREDENTIALS_DIRECTORY" not in os.environ
    with output.working("checking"):
        found = check(
            config, tokens=tokens, login=login, credentials=systemd.loaded_credentials() if outside else None
        )
    report(output, [Finding(each.subject, each.ok, each.text, each.fix) for each in found])
