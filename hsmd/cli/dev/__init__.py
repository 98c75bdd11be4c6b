"""`hsmd dev`: a temporary daemon with a software token, removed when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output

if TYPE_CHECKING:
    from hsmd.cli.dev.environment import KeySpec

app = typer.Typer(add_completion=False)


@command(
    app,
    "dev",
    example="hsmd dev\nhsmd dev --key www --key shop:rsa-2048 --agent\nhsmd dev --tls12 --agent\n"
    "hsmd dev --json-ready < /dev/null > ready.json &",
)
def dev(
    output: Output,
    key: Annotated[
        list[str],
        typer.Option(
            "--key",
            "-k",
            metavar="NAME[:TYPE[:PURPOSE,...]]",
            help="Key to generate; may be repeated. Type p-256 and purpose tls13-server if not given.",
        ),
    ] = ["www"],  # noqa: B006  read only
    tls12: Annotated[
        bool,
        typer.Option(
            "--tls12", help="Keys without a given purpose are for TLS 1.2 servers, too (tls-server)."
        ),
    ] = False,
    agent: Annotated[
        bool, typer.Option("--agent", help="Also start an agent, for OpenSSL and other local programs.")
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, max=64, help="Number of token worker processes.")
    ] = 1,
    json_ready: Annotated[
        bool,
        typer.Option("--json-ready", help="Print only one line of JSON, when everything is ready."),
    ] = False,
    log: Annotated[
        bool, typer.Option("--log", help="Show the log of daemon and agent on standard error.")
    ] = False,
) -> None:
    """Run a temporary daemon: SoftHSM token, free port, keys with self-signed certificates.

    For laptops and CI: it requires neither root nor configuration, and several can run at the same time. It prints how to reach
    it, and runs until SIGINT or SIGTERM, until its parent exits, or until its standard input (if that is a pipe) is closed.
    Then it removes everything that it created.
    """
    from hsmd.cli.dev import environment

    keys = [_key_spec(text, "tls-server" if tls12 else "tls13-server") for text in key]
    names = [spec.name for spec in keys]
    if len(set(names)) < len(names):
        raise CommandError("two keys have the same name", "give each --key a different name", Exit.USAGE)
    environment.run(
        output, keys, workers=workers, with_agent=agent, one_line=json_ready or output.as_json, show_log=log
    )


def _key_spec(text: str, default_purpose: str) -> KeySpec:
    from hsmd.cli.dev.environment import KeySpec

    name, _, rest = text.partition(":")
    key_type, _, purposes = rest.partition(":")
    return KeySpec(name, key_type or "p-256", tuple((purposes or default_purpose).split(",")))
