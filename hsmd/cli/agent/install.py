"""`hsmd agent install`: write the files that make a TLS server use the agent, or a service that runs it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.agent import server_files
from hsmd.cli.agent.options import Config, Socket, app, default_config, default_keys, socket_of
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output


class Server(Enum):
    """The servers that `install` supports."""

    NGINX = "nginx"
    OPENSSL = "openssl"
    SYSTEMD = "systemd"


@command(
    app,
    "install",
    example="hsmd agent install nginx --key www\nhsmd agent install nginx --key www --print\n"
    "hsmd agent install openssl\nhsmd agent install systemd --user hsmd-agent",
)
def install(
    output: Output,
    server: Annotated[
        Server,
        typer.Argument(
            metavar="SERVER",
            help="TLS server to configure, or systemd for a service that runs the agent.",
            show_default=False,
        ),
    ],
    key: Annotated[
        str,
        typer.Option("--key", metavar="KEY", help="For nginx: name of the exported key.", show_default=False),
    ] = "",
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="DIR", help="For nginx: directory that `agent export` wrote to."),
    ] = None,
    user: Annotated[
        str, typer.Option("--user", metavar="NAME", help="For systemd: user that the agent runs as.")
    ] = "hsmd-agent",
    config: Config = None,
    socket: Socket = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the files instead of writing them.")
    ] = False,
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Write below this directory, for building images.")
    ] = Path("/"),
) -> None:
    """Write the files that make a TLS server use the agent.

    nginx: an OpenSSL configuration that loads hsmd's provider, a systemd drop-in with OPENSSL_CONF, and a snippet with
    certificate and key for a server block. openssl: only the OpenSSL configuration, for any other program that uses OpenSSL 3
    (HAProxy, Apache, Python, ...) and is started with OPENSSL_CONF. systemd: a hardened service that runs the agent.
    """
    if server is Server.SYSTEMD:
        unit = server_files.systemd_files((config or default_config()).absolute(), user)
        server_files.install(output, unit, server_files.SYSTEMD_STEPS, root, only_print=only_print)
        return
    listen = socket_of(socket, config)
    if server is Server.NGINX and not key:
        raise CommandError("the key for nginx is not given", "add --key KEY", Exit.USAGE)
    files, steps = server_files.openssl_files(listen), server_files.OPENSSL_STEPS
    if server is Server.NGINX:
        files += server_files.nginx_files(key, (keys or default_keys(config)).absolute())
        steps = server_files.nginx_steps(key)
    server_files.install(output, files, steps, root, only_print=only_print)
