"""`hsmd agent init` and `hsmd agent run`: the process on a front end that TLS servers ask for signatures."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli import agent_place, agent_toml, ssh_keys
from hsmd.cli.agent_options import Config, Socket, app, default_config
from hsmd.cli.commands import command
from hsmd.cli.files import PRIVATE, PRIVATE_DIRECTORY, SHARED_DIRECTORY, exists, make_directory, write_new
from hsmd.cli.output import Output, fields

if TYPE_CHECKING:
    from hsmd.cli.ssh_keys import PublicLine


@command(
    app,
    "init",
    example="hsmd agent init --daemon 10.9.0.1:7440 --client web1 --host-key 'ssh-ed25519 AAAAC3Nza...'",
)
def init(
    output: Output,
    daemon: Annotated[
        str, typer.Option("--daemon", metavar="ADDRESS:PORT", help="The daemon.", show_default=False)
    ],
    host_key: Annotated[
        list[str],
        typer.Option(
            "--host-key", metavar="LINE", help="Its host key, as `hsmd init` printed it; may be repeated."
        ),
    ],
    client: Annotated[
        str,
        typer.Option("--client", metavar="NAME", help="Our client name at the daemon.", show_default=False),
    ],
    allow: Annotated[
        list[str],
        typer.Option(
            "--allow",
            metavar="USER",
            help="A user of this host that may use the keys; may be repeated. Default: you; for root, web servers too.",
        ),
    ] = [],  # noqa: B006  read only
    owner: Annotated[
        str,
        typer.Option(
            "--owner",
            metavar="USER",
            help="The user the agent runs as, to own its files.",
            show_default=False,
        ),
    ] = "",
    operator_key: Annotated[
        list[str],
        typer.Option(
            "--operator-key",
            metavar="KEY",
            help="An operator's Ed25519 public key, a line or a .pub file: may declare a restored audit log. May be repeated.",
        ),
    ] = [],  # noqa: B006  read only
    config: Config = None,
    socket: Socket = None,
) -> None:
    """Make the agent's own key and its configuration, with the daemon's host key pinned.

    It prints the line that an operator runs to let this agent in. Nothing that exists is overwritten.
    """
    from hsmd.agent.config import parse
    from hsmd.client import Endpoint, parse_address

    file = (config or default_config()).absolute()
    identity = file.parent / "agent_ed25519"
    for path in (file, identity):
        if path.exists() or path.is_symlink():
            raise exists(path)
    operators = tuple(ssh_keys.line_or_file(text).line for text in operator_key)
    pinned = agent_toml.Pinned(daemon, tuple(host_key), client, identity, operators)
    Endpoint(*parse_address(daemon), pinned.host_keys, client, identity)  # refuses what no agent could use
    local = agent_place.choose(file, socket, tuple(allow))
    text = agent_toml.render(local, pinned)
    parse(text, source=str(file))
    with ExitStack() as undo:
        make_directory(
            file.parent,
            SHARED_DIRECTORY if file.parent == agent_place.SYSTEM_DIRECTORY else PRIVATE_DIRECTORY,
        )
        undo.callback(identity.unlink, missing_ok=True)
        undo.callback(ssh_keys.public_file(identity).unlink, missing_ok=True)
        key = ssh_keys.make(identity, f"{client}, hsmd agent")
        agent_place.give(identity, owner)
        undo.callback(file.unlink, missing_ok=True)
        write_new(file, text, PRIVATE)
        agent_place.give(file, owner)
        undo.pop_all()
    _report_init(output, file, local, client, key)


def _report_init(output: Output, file: Path, local: agent_toml.Local, client: str, key: PublicLine) -> None:
    line = f"hsmd client add {client} --key '{key.line}'"
    document = {
        "config": str(file),
        "socket": str(local.socket),
        "users": local.users,
        "client": client,
        "public_key": key.line,
        "operator_runs": line,
    }
    made = fields(
        [
            ("configuration", str(file)),
            ("socket", str(local.socket)),
            ("for the users", ", ".join(local.users)),
            ("key", key.fingerprint),
        ]
    )
    steps = (
        f"\nNext:\n  1. An operator runs:  {line}\n"
        f"                        hsmd grant add {client} KEY\n"
        f"  2. Start it here:     hsmd agent run --config {file}\n"
        "  3. For each key:      hsmd agent export KEY\n"
        "  4. For the server:    hsmd agent install nginx --key KEY\n"
    )
    output.show(document, lambda: (made, steps))


@command(app, "run", example="hsmd agent run --config /etc/hsmd/agent.toml")
def run(output: Output, config: Config = None) -> None:
    """Run the agent until it is told to stop.

    It starts and stays without the daemon, answers "unavailable" at once meanwhile, and connects again by itself. The log goes
    to standard error, one JSON object per line.
    """
    from hsmd import agent

    code = agent.main((config or default_config()).absolute())
    if code:
        raise typer.Exit(code)
