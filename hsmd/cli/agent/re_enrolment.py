"""Setting up an agent again on a host that was set up before: its own settings stay, key and daemon are new."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from hsmd.cli.agent import file_owner
from hsmd.cli.base import agent_toml, agent_toml_edit, ssh_keys
from hsmd.cli.base.agent_toml_edit import AgentToml, list_of, set_in_agent
from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.files import exists
from hsmd.cli.base.toml import quote
from hsmd.system import atomic_file


def before(file: Path, identity: Path, *, again: bool) -> AgentToml | None:
    """The configuration of before, None if there is none. Raises CommandError unless it may be replaced."""
    if not os.path.lexists(file):
        if os.path.lexists(identity):
            raise exists(identity)
        return None
    found = AgentToml.read(file)
    daemons = ", ".join(each.address for each in found.config.daemons)
    known = f"{file} exists: this host is set up as client {found.config.client} of {daemons}"
    if not again:
        if not sys.stdin.isatty():
            raise CommandError(
                known, "to set it up again with a new key: --again; the files of before are kept"
            )
        if not typer.confirm(f"{known}. Set it up again, with a new key?", default=False, err=True):
            raise CommandError(known, "nothing was changed")
    return found


def next_key(identity: Path) -> Path:
    """Where the new key is until it replaces the one of before; what an interrupted run left is removed."""
    made = identity.with_name(f"{identity.name}.again")
    for path in (made, ssh_keys.public_file(made)):
        path.unlink(missing_ok=True)
    return made


def checked(found: AgentToml, pinned: agent_toml.Pinned, socket: Path | None, users: tuple[str, ...]) -> str:
    """The new text: client, key, daemon and accepted keys are new, as are socket and users if they are given.

    Raises BadRequest or ConfigurationError for values that an agent would reject.
    """
    from hsmd.client import Endpoint, parse_address

    Endpoint(*parse_address(pinned.address), pinned.host_keys, pinned.client, pinned.identity)
    text = found.without_daemons()
    settings = {
        "client": quote(pinned.client),
        "identity": quote(str(pinned.identity)),
        "operator_keys": list_of(pinned.operator_keys),
    }
    if pinned.statement_keys or found.strings("statement_keys"):
        settings["statement_keys"] = list_of(pinned.statement_keys)
    if socket is not None:
        settings["socket"] = quote(str(socket.absolute()))
    for name, value in settings.items():
        text = set_in_agent(text, name, value)
    if users:
        text = agent_toml_edit.set_in_section(text, "defaults", "users", list_of(users))
    text = agent_toml_edit.append_daemon(text, pinned.address, pinned.host_keys)
    return AgentToml(found.file, text).text


def replace_files(found: AgentToml, identity: Path, text: str, owner: str) -> list[Path]:
    """Put new key and configuration in place; return where those of before are. An owner that is not given stays."""
    made = identity.with_name(f"{identity.name}.again")
    old = found.file.stat()
    number = _free_number(found.file, identity)
    kept = [_keep(path, number) for path in (found.file, identity, ssh_keys.public_file(identity))]
    for new, path in ((made, identity), (ssh_keys.public_file(made), ssh_keys.public_file(identity))):
        if owner:
            file_owner.give(new, owner if path == identity else "")
        elif path == identity and os.geteuid() == 0:
            os.chown(new, old.st_uid, old.st_gid, follow_symlinks=False)
        os.replace(new, path)
    atomic_file.replace(found.file, text, old.st_mode & 0o777, owner=(old.st_uid, old.st_gid))
    file_owner.give(found.file, owner)
    return [path for path in kept if path is not None]


def _free_number(*paths: Path) -> int:
    number = 1
    while any(os.path.lexists(_kept_name(path, number)) for path in paths):
        number += 1
    return number


def _keep(path: Path, number: int) -> Path | None:
    """Give a file of before a second name, so that there is one under the first all the time."""
    if not os.path.lexists(path):
        return None
    kept = _kept_name(path, number)
    os.link(path, kept, follow_symlinks=False)
    return kept


def _kept_name(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.before-{number}")
