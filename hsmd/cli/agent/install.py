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
    """What `install` knows."""

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
            metavar="nginx|openssl|systemd",
            help="For which server, or for the agent itself.",
            show_default=False,
        ),
    ],
    key: Annotated[
        str,
        typer.Option("--key", metavar="KEY", help="For nginx: the key, exported before.", show_default=False),
    ] = "",
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="DIR", help="Where `agent export` wrote it.")
    ] = None,
    user: Annotated[
        str, typer.Option("--user", metavar="NAME", help="For systemd: the user the agent runs as.")
    ] = "hsmd-agent",
    config: Config = None,
    socket: Socket = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the files instead of writing them.")
    ] = False,
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Write below this directory, for images.")
    ] = Path("/"),
) -> None:
    """Write the OpenSSL configuration that loads hsmd's provider, and for nginx what makes its service use it.

    For nginx: a systemd drop-in with OPENSSL_CONF, and a snippet with certificate and key for your server block. For anything
    else that uses OpenSSL 3 (HAProxy, Apache, Python, ...): the configuration alone, to be given by OPENSSL_CONF. For systemd:
    the service that runs the agent, with everything closed that it does not need.
    """
    if server is Server.SYSTEMD:
        unit = server_files.systemd_files((config or default_config()).absolute(), user)
        server_files.install(output, unit, server_files.SYSTEMD_STEPS, root, only_print=only_print)
        return
    listen = socket_of(socket, config)
    if server is Server.NGINX and not key:
        raise CommandError("nothing says which key nginx shall use", "add --key KEY", Exit.USAGE)
    files, steps = server_files.openssl_files(listen), server_files.OPENSSL_STEPS
    if server is Server.NGINX:
        files += server_files.nginx_files(key, (keys or default_keys(config)).absolute())
        steps = server_files.nginx_steps(key)
    server_files.install(output, files, steps, root, only_print=only_print)
