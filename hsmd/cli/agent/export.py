"""`hsmd agent export`: write the key references and the certificate chains that a TLS server loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.agent.options import Config, Socket, app, default_config, default_keys, socket_of
from hsmd.cli.base import name_patterns, server_list
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import DEFAULT_TIMEOUT_S
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.key_files import Exported, export_key, export_keys, readers
from hsmd.cli.base.near_names import near
from hsmd.cli.base.output import Output, fields, note
from hsmd.cli.base.paging import keys_at
from hsmd.deployment import servers
from hsmd.errors import NotFound, Refused
from hsmd.protocol.messages import WhoAmI
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
    replaced. Renewed certificates are installed in the same directory, see `hsmd agent deploy`.
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
            _show_one(output, _export_one(agent, keys[0], directory, gid))
        else:
            _show_many(output, _export(agent, keys, directory, gid), directory)
    _list_directory((config or default_config()).absolute(), directory)


def _list_directory(config: Path, directory: Path) -> None:
    """Have renewed certificates installed there, if it is not where they are installed anyway."""
    if directory == default_keys(config) or not config.exists():
        return
    listed = server_list.beside(config)
    if any(directory in server.directories for server in servers.load(listed, default_keys(config))[0]):
        return
    name = "exports" + str(directory).replace("/", "-")
    try:
        file = server_list.record(listed, servers.Server(name, (directory,)))
    except OSError as error:
        note(f"Renewed certificates are not installed in {directory}: {listed}: {error.strerror}")
        return
    note(f'Renewed certificates are installed there, too. To reload a server then: unit = "..." in {file}')


def _export_one(agent: Client, name: str, directory: Path, group: int) -> Exported:
    """Export one key. Raises CommandError, with names that are like it, if there is none that this host may use."""
    try:
        return export_key(agent, name, directory, timeout_s=DEFAULT_TIMEOUT_S, group=group)
    except (NotFound, Refused):
        raise _unknown(agent, name) from None


def _unknown(agent: Client, wanted: str) -> CommandError:
    known = [info.name for info in keys_at(agent, DEFAULT_TIMEOUT_S)]
    client = agent.control(WhoAmI(), timeout_s=DEFAULT_TIMEOUT_S).client
    if similar := near(wanted, known):
        step = f"did you mean {' or '.join(similar)}?"
    elif known:
        step = f"you may use: {name_patterns.shortened(known)}"
    else:
        step = f"an operator runs: hsmd grant add {client} {wanted}; agent.toml must allow you to use it, too"
    return CommandError(f"there is no key {wanted!r} that {client} may use here", step)


def _export(agent: Client, wanted: list[str], directory: Path, group: int) -> list[Exported]:
    """Export the keys of these names and patterns; without any, all."""
    infos = {info.name: info for info in keys_at(agent, DEFAULT_TIMEOUT_S)}
    names = name_patterns.select(wanted, infos, see="hsmd agent export --help") if wanted else list(infos)
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
