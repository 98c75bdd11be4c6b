"""`hsmd dev`: a throw-away daemon with a software token, gone without a trace when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output

if TYPE_CHECKING:
    from hsmd.cli.dev.environment import KeyWish

app = typer.Typer(add_completion=False)


@command(
    app,
    "dev",
    example="hsmd dev\nhsmd dev --key www --key shop:rsa-2048 --agent\nhsmd dev --json-ready < /dev/null > ready.json &",
)
def dev(
    output: Output,
    key: Annotated[
        list[str],
        typer.Option(
            "--key", "-k", metavar="NAME[:TYPE[:PURPOSE,...]]", help="A key to make; may be repeated."
        ),
    ] = ["www:p-256:tls-server"],  # noqa: B006  read only
    agent: Annotated[
        bool, typer.Option("--agent", help="Start an agent too, for OpenSSL and other local users.")
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, max=64, help="Token workers, one process each.")
    ] = 1,
    json_ready: Annotated[
        bool,
        typer.Option("--json-ready", help="Print one line of JSON when everything is ready, nothing else."),
    ] = False,
    log: Annotated[
        bool, typer.Option("--log", help="Show the log of daemon and agent on standard error.")
    ] = False,
) -> None:
    """Run a throw-away daemon: temporary directory, SoftHSM token, free port, keys with self-signed certificates.

    For laptops and CI: needs no root and no configuration, and many run side by side. It prints how to reach it and stays
    until SIGINT or SIGTERM, until its parent dies, or until its standard input (if that is a pipe) is closed. Then it
    removes everything it made.
    """
    from hsmd.cli.dev import environment

    wishes = [_wish(text) for text in key]
    names = [wish.name for wish in wishes]
    if len(set(names)) < len(names):
        raise CommandError("two keys have the same name", "give each --key a name of its own", Exit.USAGE)
    environment.run(
        output, wishes, workers=workers, with_agent=agent, one_line=json_ready or output.as_json, show_log=log
    )


def _wish(text: str) -> KeyWish:
    from hsmd.cli.dev.environment import KeyWish

    name, _, rest = text.partition(":")
    key_type, _, purposes = rest.partition(":")
    return KeyWish(name, key_type or "p-256", tuple((purposes or "tls-server").split(",")))
