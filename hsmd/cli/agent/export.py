"""`hsmd agent export`: write the key reference and the certificate chain that a TLS server loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.agent.options import Config, Socket, app, default_keys, socket_of
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import DEFAULT_TIMEOUT_S
from hsmd.cli.base.key_files import export_key
from hsmd.cli.base.names import KeyName
from hsmd.cli.base.output import Output, fields, note
from hsmd.system.directories import make_shared


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
            help="Directory to write to. Default: `keys` beside the agent's configuration.",
        ),
    ] = None,
    config: Config = None,
    socket: Socket = None,
) -> None:
    """Write the files that a TLS server loads: KEY.pem, the certificate chain, and KEY.key, a reference to the private key.

    Both are fetched through the agent. Neither is secret: KEY.key contains the name of the key and its public half. Existing
    files are replaced. After a certificate has been renewed, run the command again and reload the server.
    """
    from hsmd.client import AgentEndpoint, Client

    directory = (out or default_keys(config)).absolute()
    make_shared(directory)
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
        note(f"No certificate is stored for {key}. Next: hsmd cert import {key} CHAIN, then export again")
