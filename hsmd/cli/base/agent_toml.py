"""The text of a new agent.toml, with a comment for each setting that somebody may want to change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.base.toml import quote


@dataclass(frozen=True, slots=True)
class Pinned:
    """The daemon an agent belongs to: its address and host keys, our client name there and our private key file, and the
    operators' keys that count."""

    address: str
    host_keys: tuple[str, ...]
    client: str
    identity: Path
    operator_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Local:
    """The agent's place on its host: socket, directory for what it remembers, users it serves, group of the socket."""

    socket: Path
    state: Path
    users: tuple[str, ...]
    group: str = ""


def render(local: Local, daemon: Pinned) -> str:
    """The whole file."""
    return f"""\
# Configuration of the hsmd agent of this host. Paths are absolute. SIGHUP reads it again.

[agent]
# Our client name at the daemons, and the private key that proves it.
client = {quote(daemon.client)}
identity = {quote(str(daemon.identity))}
# An OpenSSH user certificate for it, if the daemons trust a user CA.
#certificate = "/etc/hsmd/agent_ed25519-cert.pub"
# Where TLS servers on this host ask for signatures, and who may connect there.
socket = {quote(str(local.socket))}
mode = "0660"
{_group(local.group)}
# Public keys and certificates are kept here, so that servers start while no daemon can be reached.
state = {quote(str(local.state))}
# Operators who may declare that a daemon's audit log was restored from a backup (Ed25519, as in their .pub files).
operator_keys = {_list(daemon.operator_keys)}

[defaults]
# Users of this host that may use keys, unless the key has a section of its own below. "*" is everybody who may connect.
users = {_list(local.users)}

#[keys.www]
#users = ["www-data"]

# Tried in this order; add a section for each daemon that holds the keys.
[[daemon]]
address = {quote(daemon.address)}
# The only host keys (or, behind `cert-authority`, host CAs) that are accepted.
host_keys = {_list(daemon.host_keys)}
"""


def _group(group: str) -> str:
    return f"group = {quote(group)}" if group else '#group = "www-data"'


def _list(texts: tuple[str, ...]) -> str:
    return f"[{', '.join(quote(text) for text in texts)}]"
