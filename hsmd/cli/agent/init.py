"""`hsmd agent init`: the agent's own key and its configuration, with the daemon's host key pinned."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.agent import defaults, file_owner, re_enrolment
from hsmd.cli.agent.options import Config, Socket, app, default_config
from hsmd.cli.base import agent_toml, enrolment, ssh_keys
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import (
    PRIVATE,
    PRIVATE_DIRECTORY,
    SHARED_DIRECTORY,
    make_directory_for_now,
    write_new,
)
from hsmd.cli.base.output import Output, fields
from hsmd.system import host_users

if TYPE_CHECKING:
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
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Set up a host again that was set up before: with a new key, and with the socket, users and other settings that "
            "it has. The files of before are kept beside the new ones. Without this option, the command asks.",
        ),
    ] = False,
    config: Config = None,
    socket: Socket = None,
) -> None:
    """Create the agent's key and configuration, with the daemon's host key pinned.

    With --enroll the agent registers its key with a one-time token. Without it, the command prints the line that an operator
    runs to register the key. On a host that was set up before, the command asks, and keeps the files that it replaces.
    """
    file = (config or default_config()).absolute()
    identity = file.parent / "agent_ed25519"
    before = re_enrolment.before(file, identity, again=again)
    operators = tuple(ssh_keys.line_or_file(text).line for text in operator_key)
    local = defaults.choose(file, socket, tuple(allow))
    file_owner.check(owner)
    token = _token(enroll, daemon, client, host_key)
    key_file = identity if before is None else re_enrolment.next_key(identity)

    def checked(pinned: agent_toml.Pinned) -> str:
        if before is None:
            return _checked(local, pinned, file)
        return re_enrolment.checked(before, pinned, socket, tuple(allow))

    with ExitStack() as undo:
        if token is None:
            pinned = agent_toml.Pinned(daemon, tuple(host_key), client, identity, operators)
            text = checked(pinned)
            _make_directory(undo, file)
            ssh_keys.make_for_now(undo, key_file, f"{client}, hsmd agent")
        else:
            # Check everything before the token is used up.
            checked(agent_toml.Pinned(token.address, (_ANY_HOST_KEY,), "any", identity, operators))
            _make_directory(undo, file)
            answer = enrolment.register(token, key_file, undo)
            keys = operators or tuple(answer.operator_keys)
            pinned = agent_toml.Pinned(
                token.address,
                tuple(answer.host_keys),
                answer.client,
                identity,
                keys,
                tuple(answer.statement_keys),
            )
            text = checked(pinned)
        if before is None:
            file_owner.give(identity, owner)
            undo.callback(file.unlink, missing_ok=True)
            write_new(file, text, PRIVATE)
            file_owner.give(file, owner)
            kept: list[Path] = []
        else:
            kept = re_enrolment.replace_files(before, identity, text, owner)
        undo.pop_all()
    users = local.users if before is None or allow else _users(file)
    _report_init(output, file, identity, users, owner, kept, enrolled=token is not None)


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


def _make_directory(undo: ExitStack, file: Path) -> None:
    system = file.parent == defaults.SYSTEM_DIRECTORY
    make_directory_for_now(undo, file.parent, SHARED_DIRECTORY if system else PRIVATE_DIRECTORY)


def _users(file: Path) -> tuple[str, ...]:
    """The users that an agent.toml names."""
    from hsmd.agent.config import load

    return tuple(sorted(host_users.by_uid(uid).name for uid in load(file).socket.users)) or ("*",)


def _report_init(
    output: Output,
    file: Path,
    identity: Path,
    users: tuple[str, ...],
    owner: str,
    kept: list[Path],
    *,
    enrolled: bool,
) -> None:
    from hsmd.agent.config import load

    made = load(file)
    key = ssh_keys.read(ssh_keys.public_file(identity))
    line = f"hsmd client add {made.client} --key '{key.line}'"
    document = {
        "config": str(file),
        "socket": str(made.socket.path),
        "users": users,
        "client": made.client,
        "public_key": key.line,
        "operator_runs": None if enrolled else line,
        "kept": [str(path) for path in kept],
    }
    shown = [
        ("configuration", str(file)),
        ("socket", str(made.socket.path)),
        ("users", ", ".join(users)),
        ("key", key.fingerprint),
        ("kept of before", ", ".join(path.name for path in kept)),
    ]
    output.show(
        document, lambda: fields(shown), hints=_steps(file, made.client, line, owner, enrolled, bool(kept))
    )


def _steps(file: Path, client: str, line: str, owner: str, enrolled: bool, again: bool) -> str:
    """What remains to be done, as the options of the command make it."""
    grant = f"hsmd grant add {client} KEY"
    steps = [
        (
            "An operator runs:",
            f"{grant}   (unless the token includes grants)" if enrolled else f"{line}\n{' ' * 24}{grant}",
        )
    ]
    if again:
        steps.append(("Load it:", "systemctl restart hsmd-agent    (or restart `hsmd agent run`)"))
    elif owner:
        steps.append(("As a service:", f"hsmd agent install systemd --user {owner}"))
        steps.append(("Start it:", "systemctl daemon-reload && systemctl enable --now hsmd-agent"))
    else:
        steps.append(("Start it here:", f"hsmd agent run --config {file}"))
    if not again:
        steps.append(("For each key:", "hsmd agent export KEY"))
        steps.append(("For the server:", "hsmd agent install nginx --key KEY    (or another: see --help)"))
    lines = [f"  {number}. {what:<20} {then}" for number, (what, then) in enumerate(steps, 1)]
    return "\nNext:\n" + "\n".join(lines) + "\n"
