"""`hsmd agent check`: check everything between a TLS server and its key."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.agent import check_access, check_agent, check_files, check_openssl, check_results, server_files
from hsmd.cli.agent.check_access import Wanted
from hsmd.cli.agent.options import Config, Socket, app, default_config, default_keys, socket_of
from hsmd.cli.base.commands import command
from hsmd.cli.base.names import KeyName
from hsmd.cli.base.output import Output


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
            "--file", metavar="FILE", help="Key reference. Default: the path that `agent export` uses."
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate",
            metavar="FILE",
            help="Certificate chain. Default: the .pem file beside the key reference.",
        ),
    ] = None,
    openssl: Annotated[
        Path, typer.Option("--openssl", metavar="FILE", help="OpenSSL configuration of the server.")
    ] = server_files.OPENSSL_CONFIGURATION,
    user: Annotated[
        str,
        typer.Option(
            "--user",
            metavar="NAME",
            help="User that the TLS server runs as; its permissions are checked.",
            show_default=False,
        ),
    ] = "",
    config: Config = None,
    socket: Socket = None,
) -> None:
    """Check everything between a TLS server and its key, and report how to fix each problem.

    Checks the socket, agent, daemon, grant, key reference, certificate and its expiry, and OpenSSL with its
    providers; with --user also whether that user may use these files. Exit code 4 means that there is a problem.
    """
    path = socket_of(socket, config)
    reference = file or default_keys(config) / f"{key}.key"
    chain = certificate or reference.with_suffix(".pem")
    found, info = check_agent.check_agent(path, key, user)
    found += check_agent.check_policy(config or default_config(), key, user)
    found += check_files.check_reference(reference, key, info)
    found += check_files.check_certificate(chain, key, info, datetime.now(UTC))
    if user:
        found += [
            check_access.check(user, Wanted(file, "read", "-r"))
            for file in (reference, chain, openssl, *check_openssl.provider_modules(openssl))
            if file.exists()
        ]
    found += check_openssl.check_openssl(openssl, reference)
    check_results.report(output, found)
