"""`hsmd agent export`: write the key references and the certificate chains that a TLS server loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.agent.options import Config, Socket, app, default_keys, socket_of
from hsmd.cli.base import name_patterns
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import DEFAULT_TIMEOUT_S
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.key_files import Exported, export_key, export_keys, readers
from hsmd.cli.base.output import Output, fields, note
from hsmd.cli.base.paging import keys_at
from hsmd.system.directories import make_shared

if TYPE_CHECKING:
    from hsmd.client import Client


@command(
    app,
    "export",
    example="hsmd agent export www --out /etc/hsmd/keys\nhsmd agent export 'site-*'\nhsmd agent export --all\n"
    "hsmd agent export db --group postgres",
)
def export(
    output: Output,
    keys: Annotated[
        list[str],
        typer.Argument(
            metavar="[KEY]...",
            help="Names of keys, or patterns such as 'site-*'.",
            show_default=False,
            callback=name_patterns.check,
        ),
    ] = [],  # noqa: B006  read only
    every: Annotated[bool, typer.Option("--all", help="All keys that you may use at the agent.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Directory to write to. Default: `keys` beside the agent's configuration.",
        ),
    ] = None,
    group: Annotated[
        str,
        typer.Option(
            "--group",
            metavar="NAME",
            help="Group of a server that reads keys as its own user. Default for root: ssl-cert, if there is one.",
            show_default=False,
        ),
    ] = "",
    config: Config = None,
    socket: Socket = None,
) -> None:
    """Write the files that a TLS server loads: KEY.pem, the certificate chain, and KEY.key, a reference to the private key.

    Both are fetched through the agent. Neither is secret: KEY.key contains the name of the key and its public half. Yet only
    its owner and group may read it, because some programs refuse key files that all may read. Existing files are
    replaced. After certificates have been renewed, run the command again and reload the server.
    """
    from hsmd.client import AgentEndpoint, Client

    if bool(keys) == every:
        raise CommandError(
            "name the keys to export, or give --all", "see: hsmd agent export --help", Exit.USAGE
        )
    gid = readers(group)
    directory = (out or default_keys(config)).absolute()
    make_shared(directory)
    with Client.connect(AgentEndpoint(socket_of(socket, config))) as agent:
        if name_patterns.is_one(keys):
            _show_one(output, export_key(agent, keys[0], directory, timeout_s=DEFAULT_TIMEOUT_S, group=gid))
        else:
            _show_many(output, _export(agent, keys, directory, gid), directory)


def _export(agent: Client, wanted: list[str], directory: Path, group: int) -> list[Exported]:
    """Export the keys of these names and patterns; without any, all."""
    infos = {info.name: info for info in keys_at(agent, DEFAULT_TIMEOUT_S)}
    names = name_patterns.select(wanted, infos) if wanted else list(infos)
    progress = name_patterns.Progress("exported", len(names))
    made = []
    for each in export_keys(
        agent, [infos[name] for name in names], directory, timeout_s=DEFAULT_TIMEOUT_S, group=group
    ):
        made.append(each)
        progress.step()
    return made


def _show_one(output: Output, made: Exported) -> None:
    output.show(
        _document(made),
        lambda: fields(
            [
                ("key reference", str(made.reference)),
                ("certificate chain", str(made.chain or "(none stored)")),
            ]
        ),
    )
    if made.chain is None and not output.as_json:
        note(
            f"No certificate is stored for {made.name}. Next: hsmd cert import {made.name} CHAIN, then export again"
        )


def _show_many(output: Output, made: list[Exported], directory: Path) -> None:
    without = [each.name for each in made if each.chain is None]
    output.show(
        {"keys": [_document(each) for each in made]},
        lambda: f"{name_patterns.count(made)} exported to {directory}",
    )
    if without and not output.as_json:
        name_patterns.plan("No certificate is stored for", without)


def _document(made: Exported) -> dict[str, str | None]:
    return {
        "key": made.name,
        "reference": str(made.reference),
        "chain": None if made.chain is None else str(made.chain),
    }
