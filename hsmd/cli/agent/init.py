"""`hsmd agent init`: the agent's own key and its configuration, with the daemon's host key pinned."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.agent import defaults, file_owner
from hsmd.cli.agent.options import Config, Socket, app, default_config
from hsmd.cli.base import agent_toml, enrolment, ssh_keys
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import (
    PRIVATE,
    PRIVATE_DIRECTORY,
    SHARED_DIRECTORY,
    exists,
    make_directory,
    write_new,
)
from hsmd.cli.base.output import Output, fields

if TYPE_CHECKING:
    from hsmd.cli.base.ssh_keys import PublicLine
    from hsmd.protocol.enrolment import EnrolmentToken


_ANY_HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43
"""Stands in for the daemon's host key until the daemon has sent it."""


@command(
    app,
    "init",
    example="hsmd agent init --daemon 10.9.0.1:7440 --client web1 --host-key 'ssh-ed25519 AAAAC3Nza...'",
)
def init(
    output: Output,
    daemon: Annotated[
        str,
        typer.Option("--daemon", metavar="ADDRESS:PORT", help="Address of the daemon.", show_default=False),
    ] = "",
    host_key: Annotated[
        list[str],
        typer.Option(
            "--host-key",
            metavar="LINE",
            help="Host key of the daemon, as printed by `hsmd init`; may be repeated.",
        ),
    ] = [],  # noqa: B006  read only
    client: Annotated[
        str,
        typer.Option(
            "--client", metavar="NAME", help="Client name of this agent at the daemon.", show_default=False
        ),
    ] = "",
    enroll: Annotated[
        str,
        typer.Option(
            "--enroll",
            metavar="FILE",
            help="Enrolment token file (`-` for standard input); replaces --daemon, --host-key and --client.",
            show_default=False,
        ),
    ] = "",
    allow: Annotated[
        list[str],
        typer.Option(
            "--allow",
            metavar="USER",
            help="User of this host that may use keys; may be repeated. Default: you, and for root also web servers.",
        ),
    ] = [],  # noqa: B006  read only
    owner: Annotated[
        str,
        typer.Option(
            "--owner",
            metavar="USER",
            help="User that the agent runs as; becomes the owner of its files.",
            show_default=False,
        ),
    ] = "",
    operator_key: Annotated[
        list[str],
        typer.Option(
            "--operator-key",
            metavar="KEY",
            help="Operator key (Ed25519 line or .pub file) whose discontinuity declarations are accepted; may be repeated.",
        ),
    ] = [],  # noqa: B006  read only
    config: Config = None,
    socket: Socket = None,
) -> None:
    """Create the agent's key and configuration, with the daemon's host key pinned.

    With --enroll the agent registers its key with a one-time token. Without it, the command prints the line that an operator
    runs to register the key. Existing files are not overwritten.
    """
    file = (config or default_config()).absolute()
    identity = file.parent / "agent_ed25519"
    for path in (file, identity):
        if path.exists() or path.is_symlink():
            raise exists(path)
    operators = tuple(ssh_keys.line_or_file(text).line for text in operator_key)
    local = defaults.choose(file, socket, tuple(allow))
    file_owner.check(owner)
    token = _token(enroll, daemon, client, host_key)
    with ExitStack() as undo:
        if token is None:
            pinned = agent_toml.Pinned(daemon, tuple(host_key), client, identity, operators)
            text = _checked(local, pinned, file)
            _make_directory(file)
            ssh_keys.make_for_now(undo, identity, f"{client}, hsmd agent")
        else:
            # Check everything before the token is used up.
            _checked(
                local, agent_toml.Pinned(token.address, (_ANY_HOST_KEY,), "any", identity, operators), file
            )
            _make_directory(file)
            answer = enrolment.register(token, identity, undo)
            keys = operators or tuple(answer.operator_keys)
            pinned = agent_toml.Pinned(
                token.address,
                tuple(answer.host_keys),
                answer.client,
                identity,
                keys,
                tuple(answer.statement_keys),
            )
            text = _checked(local, pinned, file)
        file_owner.give(identity, owner)
        undo.callback(file.unlink, missing_ok=True)
        write_new(file, text, PRIVATE)
        file_owner.give(file, owner)
        undo.pop_all()
    key = ssh_keys.read(ssh_keys.public_file(identity))
    _report_init(output, file, local, pinned.client, key, enrolled=token is not None)


def _token(source: str, daemon: str, client: str, host_key: list[str]) -> EnrolmentToken | None:
    """The token, or None if the options name the daemon. Raises CommandError for a conflict or missing options."""
    given = {"--daemon": daemon, "--client": client, "--host-key": host_key}
    if source:
        if redundant := [option for option, value in given.items() if value]:
            raise CommandError(
                f"{', '.join(redundant)} cannot be combined with --enroll: the token contains it",
                "omit it",
                Exit.USAGE,
            )
        return enrolment.read_token(source)
    if missing := [option for option, value in given.items() if not value]:
        raise CommandError(
            f"no daemon is configured: {', '.join(missing)} not given",
            "give the options, or a token of `hsmd client enroll` with --enroll -",
            Exit.USAGE,
        )
    return None


def _checked(local: agent_toml.Local, pinned: agent_toml.Pinned, file: Path) -> str:
    """The text of agent.toml. Raises BadRequest or ConfigurationError for values that an agent would reject."""
    from hsmd.agent.config import parse
    from hsmd.client import Endpoint, parse_address

    Endpoint(*parse_address(pinned.address), pinned.host_keys, pinned.client, pinned.identity)
    text = agent_toml.render(local, pinned)
    parse(text, source=str(file))
    return text


def _make_directory(file: Path) -> None:
    system = file.parent == defaults.SYSTEM_DIRECTORY
    make_directory(file.parent, SHARED_DIRECTORY if system else PRIVATE_DIRECTORY)


def _report_init(
    output: Output, file: Path, local: agent_toml.Local, client: str, key: PublicLine, *, enrolled: bool
) -> None:
    line = f"hsmd client add {client} --key '{key.line}'"
    document = {
        "config": str(file),
        "socket": str(local.socket),
        "users": local.users,
        "client": client,
        "public_key": key.line,
        "operator_runs": None if enrolled else line,
    }
    made = fields(
        [
            ("configuration", str(file)),
            ("socket", str(local.socket)),
            ("users", ", ".join(local.users)),
            ("key", key.fingerprint),
        ]
    )
    grant = f"hsmd grant add {client} KEY"
    operator_commands = (
        f"{grant}   (unless the token includes grants)" if enrolled else f"{line}\n{' ' * 24}{grant}"
    )
    steps = (
        "\nNext:\n"
        f"  1. An operator runs:  {operator_commands}\n"
        f"  2. Start it here:     hsmd agent run --config {file}\n"
        "  3. For each key:      hsmd agent export KEY\n"
        "  4. For the server:    hsmd agent install nginx --key KEY\n"
    )
    output.show(document, lambda: made, hints=steps)
