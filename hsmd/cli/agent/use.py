"""`hsmd agent export`, `install` and `check`: from a key at the daemon to a TLS server that uses it."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.agent import check_agent, check_files, check_openssl, check_results, server_files
from hsmd.cli.agent.options import Config, Socket, app, default_config, default_keys, socket_of
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import DEFAULT_TIMEOUT_S
from hsmd.cli.base.export import export_key
from hsmd.cli.base.failures import Exit, Stop
from hsmd.cli.base.names import KeyName
from hsmd.cli.base.output import Output, fields, note


class Server(Enum):
    """What `install` knows."""

    NGINX = "nginx"
    OPENSSL = "openssl"
    SYSTEMD = "systemd"


@command(app, "export", example="hsmd agent export www --out /etc/hsmd/keys")
def export(
    output: Output,
    key: KeyName,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Where to write. Default: `keys` beside the agent's configuration.",
        ),
    ] = None,
    config: Config = None,
    socket: Socket = None,
) -> None:
    """Write what a TLS server loads: KEY.pem, the certificate chain, and KEY.key, which stands for the private key.

    Both are fetched through the agent. Neither is secret: KEY.key names the key and holds its public half. Files that are
    there are replaced. Run it again, and reload the server, when the certificate has been renewed.
    """
    from hsmd.client import AgentEndpoint, Client

    directory = (out or default_keys(config)).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    with Client.connect(AgentEndpoint(socket_of(socket, config))) as agent:
        made = export_key(agent, key, directory, timeout_s=DEFAULT_TIMEOUT_S)
    document = {
        "key": key,
        "reference": str(made.reference),
        "chain": None if made.chain is None else str(made.chain),
    }
    output.show(
        document,
        lambda: fields(
            [
                ("key reference", str(made.reference)),
                ("certificate chain", str(made.chain or "(none stored)")),
            ]
        ),
    )
    if made.chain is None and not output.as_json:
        note(f"No certificate is stored for {key}: hsmd cert import {key} CHAIN, then export it again")


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
        raise Stop("nothing says which key nginx shall use", "add --key KEY", Exit.USAGE)
    files, steps = server_files.openssl_files(listen), server_files.OPENSSL_STEPS
    if server is Server.NGINX:
        files += server_files.nginx_files(key, (keys or default_keys(config)).absolute())
        steps = server_files.nginx_steps(key)
    server_files.install(output, files, steps, root, only_print=only_print)


@command(
    app,
    "check",
    example="hsmd agent check www\nhsmd agent check www --user www-data --file /etc/hsmd/keys/www.key",
)
def check(
    output: Output,
    key: KeyName,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="Key reference. Default: where `agent export` writes it."
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="FILE", help="Chain. Default: beside the key reference."),
    ] = None,
    openssl: Annotated[
        Path, typer.Option("--openssl", metavar="FILE", help="OpenSSL configuration of the server.")
    ] = server_files.OPENSSL_CONFIGURATION,
    user: Annotated[
        str,
        typer.Option(
            "--user", metavar="NAME", help="The user the server runs as, for permissions.", show_default=False
        ),
    ] = "",
    config: Config = None,
    socket: Socket = None,
) -> None:
    """Look at everything between a TLS server and its key, and say how to mend what is wrong.

    Socket and permissions, agent, daemon, grant, key reference, certificate and its end, OpenSSL and its providers. Exit code 4
    means that there is a problem.
    """
    path = socket_of(socket, config)
    reference = file or default_keys(config) / f"{key}.key"
    chain = certificate or reference.with_suffix(".pem")
    found, info = check_agent.check_agent(path, key, user)
    found += check_agent.check_policy(config or default_config(), key, user)
    found += check_files.check_reference(reference, info)
    found += check_files.check_certificate(chain, info, datetime.now(UTC))
    found += check_openssl.check_openssl(openssl, reference)
    check_results.report(output, found)
