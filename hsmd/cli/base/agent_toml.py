"""The text of a new agent.toml, with a comment for each setting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.base.toml import quote


@dataclass(frozen=True, slots=True)
class Pinned:
    """The daemon of a new agent: address, host keys, the agent's client name and private key file, and the accepted keys of
    operators and of statements."""

    address: str
    host_keys: tuple[str, ...]
    client: str
    identity: Path
    operator_keys: tuple[str, ...] = ()
    statement_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Local:
    """The agent on its host: socket, state directory, users that it serves."""

    socket: Path
    state: Path
    users: tuple[str, ...]


def render(local: Local, daemon: Pinned) -> str:
    """The whole file."""
    return f"""\
# Configuration of the hsmd agent of this host. Paths are absolute. SIGHUP reloads it.

[agent]
# Client name of this agent at the daemons, and its private key.
client = {quote(daemon.client)}
identity = {quote(str(daemon.identity))}
# OpenSSH user certificate for it, if the daemons trust a user CA.
#certificate = "/etc/hsmd/agent_ed25519-cert.pub"
# Socket for the TLS servers of this host. The users named below may connect; `mode` and `group` allow further ones to.
socket = {quote(str(local.socket))}
mode = "0660"
#group = "www-data"
# Cache of public keys and certificates, so that TLS servers can start while no daemon is reachable.
state = {quote(str(local.state))}
# Operator keys whose discontinuity declarations are accepted (Ed25519 lines, as in .pub files).
operator_keys = {_list(daemon.operator_keys)}
{_statement_keys(daemon.statement_keys)}
[defaults]
# Users of this host that may use keys without a section of their own below. "*": every user that may connect.
users = {_list(local.users)}

# Metrics for Prometheus at /metrics, health at /healthz and /readyz. Other addresses than loopback need allow_network = true,
# because the addresses of the daemons are shown there. One port for each agent of a host.
[metrics]
address = "127.0.0.1:9445"

#[keys.www]
#users = ["www-data"]

# Daemons are tried in this order; add a section for each daemon that has the keys.
[[daemon]]
address = {quote(daemon.address)}
# Accepted host keys, or host CAs with the prefix `cert-authority`.
host_keys = {_list(daemon.host_keys)}
"""


def _statement_keys(lines: tuple[str, ...]) -> str:
    """Nothing while there is no statement key, as earlier releases expect."""
    if not lines:
        return ""
    return (
        "# Keys with which the daemons sign statements; the operators above may endorse new ones.\n"
        f"statement_keys = {_list(lines)}\n"
    )


def _list(texts: tuple[str, ...]) -> str:
    return f"[{', '.join(quote(text) for text in texts)}]"
