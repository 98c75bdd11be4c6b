"""`hsmd node init`: the node's own identity, its configuration, and its first certificate."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import agent_toml, enrolment
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CheckFailed, CommandError, Exit
from hsmd.cli.base.files import (
    PRIVATE,
    PRIVATE_DIRECTORY,
    SHARED_DIRECTORY,
    make_directory_for_now,
    write_new,
)
from hsmd.cli.base.output import Output
from hsmd.cli.node import node_toml
from hsmd.cli.node.options import (
    SYSTEM_DIRECTORY,
    SYSTEM_FILES,
    SYSTEM_STATE,
    Config,
    app,
    document,
    file_of,
    protect,
    text,
)
from hsmd.deployment import version_directories
from hsmd.errors import ConfigurationError

if TYPE_CHECKING:
    from hsmd.node.config import NodeConfig
    from hsmd.node.documents import Kept
    from hsmd.node.state import NodeState

_ANY_HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43
"""Stands in for the daemon's host key until the daemon has sent it."""


@command(
    app,
    "init",
    example="hsmd node init --enroll token --authority issuing --program nginx --probe 127.0.0.1:443=www.example.com",
)
def init(
    output: Output,
    enroll: Annotated[
        str, typer.Option("--enroll", metavar="FILE", help="Enrolment token file (`-` for standard input).")
    ],
    authority: Annotated[
        str, typer.Option("--authority", metavar="NAME", help="The authority that certifies this node.")
    ],
    program: Annotated[
        str,
        typer.Option("--program", metavar="KIND", help="nginx, haproxy, apache, postgresql, curl or python."),
    ],
    probe: Annotated[
        list[str],
        typer.Option(
            "--probe",
            metavar="ADDRESS[=NAME]",
            help="A handshake to try: a door of the server, or a server of the client; may be repeated.",
        ),
    ] = [],  # noqa: B006  read only
    files: Annotated[
        Path | None,
        typer.Option(
            "--files",
            metavar="DIR",
            help="Directory of the files. Default: /etc/hsmd-node for /etc/hsmd/node.toml, otherwise beside the configuration.",
        ),
    ] = None,
    unit: Annotated[
        str,
        typer.Option("--unit", metavar="UNIT", help="Systemd unit to reload. Default: that of the program."),
    ] = "",
    reload: Annotated[
        str,
        typer.Option(
            "--reload", metavar="COMMAND", help="Command that reloads the program, in place of a unit."
        ),
    ] = "",
    owner: Annotated[
        str, typer.Option("--owner", metavar="USER", help="User that the files belong to.")
    ] = "",
    group: Annotated[
        str, typer.Option("--group", metavar="GROUP", help="Group whose members read the private key.")
    ] = "",
    key_token: Annotated[
        Path | None,
        typer.Option(
            "--token",
            metavar="FILE",
            help="Settings of a token ([token] with module, label and pin_file) that gets the private key.",
        ),
    ] = None,
    label: Annotated[
        str,
        typer.Option("--label", metavar="TEXT", help="Label of the key in the token. Default: hsmd-node."),
    ] = "",
    agent_key: Annotated[
        str,
        typer.Option(
            "--agent-key",
            metavar="KEY",
            help="Name of a key that the daemon serves through the agent of this host.",
        ),
    ] = "",
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Set the node up again: the files of before are renamed, and anchors are taken from the daemon anew.",
        ),
    ] = False,
    config: Config = None,
) -> None:
    """Enrol this host as a node, write its configuration, and get its first certificate, anchors and revocation lists.

    The trust anchors are taken from the daemon this once, over the connection whose host key is in the token. Afterwards they
    change by a rollover only. The lines that are printed in the end go into the configuration of the program. Exit code 4 if
    there is no certificate yet.
    """
    from hsmd.node import config as configuration

    protect()
    file = file_of(config)
    identity = file.with_name(f"{file.stem}_ed25519")
    _check_place(key_token, label, agent_key)
    wanted = _wanted(file, authority, program, probe, files, unit, reload, owner, group)
    if key_token is not None:
        wanted = replace(wanted, token=str(key_token.absolute()), label=label or "hsmd-node")
    wanted = replace(wanted, served=agent_key)

    def checked(pinned: agent_toml.Pinned) -> tuple[str, NodeConfig]:
        made = node_toml.render(wanted, pinned)
        return made, configuration.parse(made, source=str(file))

    token = enrolment.read_token(enroll)
    before_use = agent_toml.Pinned(token.address, (_ANY_HOST_KEY,), "any", identity)
    try:
        _, settings = checked(before_use)  # before the token is used up
    except ConfigurationError as error:
        raise CommandError(
            "; ".join(map(_of_option, error.faults)), "see: hsmd node init --help", Exit.USAGE
        ) from None
    mine = (file, identity, identity.with_name(f"{identity.name}.pub"))
    if not again:
        _check_new(*mine, wanted.files / "current")
    with ExitStack() as undo:
        make_directory_for_now(
            undo, file.parent, SHARED_DIRECTORY if file.parent == SYSTEM_DIRECTORY else PRIVATE_DIRECTORY
        )
        _make_directories(undo, settings)
        _put_aside(undo, *mine)
        answer = enrolment.register(token, identity, undo)
        pinned = agent_toml.Pinned(token.address, tuple(answer.host_keys), answer.client, identity)
        write_new(file, checked(pinned)[0], PRIVATE)
        undo.pop_all()
    settings = configuration.load(file)
    with output.working("the first pass"):
        done, kept = _first_pass(settings)
    made = document(settings, kept, done) | {"config": str(file)}
    output.show(made, lambda: text(settings, kept, done), hints=_steps(file, settings, kept))
    if kept is None:
        raise CheckFailed


def _make_directories(undo: ExitStack, settings: NodeConfig) -> None:
    """The directories of state and files, tried before the token is used up. Raises CommandError."""
    from hsmd.node import documents

    for directory in (settings.state, settings.files):
        make_directory_for_now(undo, directory, SHARED_DIRECTORY)
    try:
        version_directories.try_store(settings.state, 1)
        documents.prepare(settings.files, settings.access)
    except OSError as error:
        raise CommandError(
            documents.fault_of(error, settings.files),
            "choose another directory: --files, --owner, --config",
            Exit.USAGE,
        ) from None


def _first_pass(settings: NodeConfig) -> tuple[NodeState, Kept | None]:
    """What came of it. Without handshakes: the program does not have the files in its configuration yet."""
    from hsmd.node import documents, state
    from hsmd.node.daemons import Daemons
    from hsmd.node.passes import Node

    with state.locked(settings.state), Daemons(settings.daemons) as daemons:
        state.begin_anew(settings.state)
        done = Node(replace(settings, probes=())).make_pass(daemons)
        return done, None if done.anew else documents.read(settings.files)


def _wanted(
    file: Path, authority: str, program: str, probes: list[str], files: Path | None, unit: str, reload: str, owner: str,
    group: str,
) -> node_toml.Wanted:  # fmt: skip
    """The options. Raises CommandError."""
    from hsmd.node.programs import PROGRAMS

    if program not in PROGRAMS:
        raise CommandError(
            f"--program: choose one of {', '.join(PROGRAMS)}", "see: hsmd node init --help", Exit.USAGE
        )
    if unit and reload:
        raise CommandError("give either --unit or --reload", "see: hsmd node init --help", Exit.USAGE)
    system = file.parent == SYSTEM_DIRECTORY
    which = "" if file.stem == "node" else f"-{file.stem}"  # several nodes of one host must not share files
    beside = file.with_name(f"{file.stem}-files")
    pairs = [(address, name) for address, _, name in (each.partition("=") for each in probes)]
    return node_toml.Wanted(
        authority=authority,
        program=program,
        state=SYSTEM_STATE.with_name(f"{SYSTEM_STATE.name}{which}")
        if system
        else file.with_name(f"{file.stem}-state"),
        files=(
            files or (SYSTEM_FILES.with_name(f"{SYSTEM_FILES.name}{which}") if system else beside)
        ).absolute(),
        unit=unit,
        command=_words(reload),
        owner=owner,
        group=group,
        probes=pairs,
    )


def _check_place(token: Path | None, label: str, agent_key: str) -> None:
    """Raises CommandError unless the key is in one place."""
    if (token is not None and agent_key) or (label and token is None):
        raise CommandError(
            "--token (with --label) and --agent-key exclude each other",
            "see: hsmd node init --help",
            Exit.USAGE,
        )


def _of_option(fault: str) -> str:
    """A fault of the configuration that is to be written, in the words of the command line."""
    where, _, what = fault.partition(": ")
    table, _, name = where.partition(".")
    option = {"kind": "program", "command": "reload", "connect": "probe"}.get(name, name)
    return f"--{option}: {what}" if table.split("[")[0] in ("certificate", "program", "probe") else fault


def _words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError:
        raise CommandError(
            "--reload: a quotation mark is not closed", "see: hsmd node init --help", Exit.USAGE
        ) from None


def _check_new(*paths: Path) -> None:
    """Raises CommandError for a path that exists."""
    for path in paths:
        if path.is_symlink() or path.exists():
            raise CommandError(
                f"{path} exists and is not overwritten",
                "choose another path, or set the node up again: --again",
            )


def _put_aside(undo: ExitStack, *paths: Path) -> None:
    """Keep what is there beside the new files; `undo` puts it back."""
    for path in paths:
        if path.is_symlink() or path.exists():
            before = path.with_name(f"{path.name}.before")
            path.replace(before)
            undo.callback(before.replace, path)


def _steps(file: Path, settings: NodeConfig, kept: Kept | None) -> str:
    """What remains to be done."""
    where = "" if file == file_of(None) else f" --config {file}"
    if kept is None:
        profile = "server" if settings.program.server else "client"
        allow = f"hsmd ca allow {settings.authority} {settings.client} --for {profile} --dns NAME"
        return f"\nNext: an operator runs, unless that is done: {allow}\nThen here: hsmd node renew{where}\n"
    lines = settings.program.settings(settings.files / "current", kept.has_all_lists)
    indented = "\n".join(f"    {line}" for line in lines.splitlines())
    return (
        f"\nNext:\n  1. In the configuration of {settings.program.name}:\n\n{indented}\n\n"
        f"  2. Reload it, and try it:  hsmd node check{where}\n"
        f"  3. Keep it up to date:     hsmd node install{where}    (or: hsmd node run{where})\n"
        f"  TLS sessions of before a change: {settings.program.sessions}.\n"
    )
