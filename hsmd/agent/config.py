"""agent.toml: read into frozen values. Unknown names are refused, and all faults are reported at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hsmd.agent.policy import ALL_USERS, Rules, Users
from hsmd.client.daemon_tables import absolute_path, daemons, login, operators, statement_keys
from hsmd.client.endpoint import Endpoint
from hsmd.errors import ConfigurationError
from hsmd.system import host_users
from hsmd.system.addresses import ListenAddress
from hsmd.system.metrics_address import read_metrics_address
from hsmd.system.toml_table import TomlTable, parse_text, read_text
from hsmd.transparency.note import Verifier

DEFAULT_SOCKET = "/run/hsmd/agent.sock"
DEFAULT_STATE = "/var/lib/hsmd-agent"
METRICS_PORT = 9445
MAX_SOCKET_PATH_BYTES = 100
"""Less than the 108 bytes of sun_path, because the socket is created under a longer temporary name."""
KEEP = -1
"""For owner and group: do not change it."""

_MODE = re.compile(r"0?[0-7]{3}\Z")


@dataclass(frozen=True, slots=True)
class SocketConfig:
    """The local socket: its path and permissions. `owner` and `group` are ids, -1 for the agent's own; `users` may connect
    whatever the mode says."""

    path: Path
    mode: int
    owner: int
    group: int
    users: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The settings of agent.toml. `daemons` are tried in their order; `rules` is the local policy; declarations of
    `operators` about breaks of audit logs, and about keys that follow the daemons' `statement_keys`, are accepted."""

    client: str
    socket: SocketConfig
    state: Path
    daemons: tuple[Endpoint, ...]
    rules: Rules
    operators: tuple[Verifier, ...] = ()
    statement_keys: tuple[Verifier, ...] = ()
    metrics: ListenAddress | None = None
    """Where metrics and health are served; None: nowhere."""


def load(path: Path) -> AgentConfig:
    """The configuration in a file. Raises ConfigurationError that lists every fault in it."""
    return parse(read_text(path), source=str(path))


def parse(text: str, *, source: str = "agent.toml") -> AgentConfig:
    """The configuration in a TOML document. Raises ConfigurationError that lists every fault in it."""
    faults: list[str] = []
    config = _config(TomlTable(parse_text(text, source), "", faults, Path(source).parent))
    if faults:
        raise ConfigurationError(source, faults)
    return config


def _config(top: TomlTable) -> AgentConfig:
    agent = top.table("agent")
    socket = _socket(agent)
    state = absolute_path(agent, "state", DEFAULT_STATE)
    who = login(agent)
    accepted, pinned = operators(agent), statement_keys(agent)
    agent.end()
    upstream = daemons(top, who)
    metrics_table = top.table("metrics")
    metrics, _ = read_metrics_address(metrics_table, METRICS_PORT)
    metrics_table.end()
    rules = _rules(top)
    top.end()
    socket = replace(socket, users=rules.named_users())
    return AgentConfig(who.client, socket, state, upstream, rules, accepted, pinned, metrics)


def _socket(agent: TomlTable) -> SocketConfig:
    path = absolute_path(agent, "socket", DEFAULT_SOCKET)
    if len(bytes(path)) > MAX_SOCKET_PATH_BYTES:
        agent.fault(
            "socket", f"longer than {MAX_SOCKET_PATH_BYTES} bytes, the limit for the path of a socket"
        )
    if ".." in path.parts or path.name in ("", ".", ".."):
        agent.fault("socket", "must name a file, without ..")
    mode = agent.text("mode", "0660")
    if not _MODE.match(mode):
        agent.fault("mode", f"{mode[:20]!r} is not a mode like 0660")
        mode = "0"
    owner = _id(agent, "owner", host_users.uid_of)
    group = _id(agent, "group", host_users.gid_of)
    return SocketConfig(path, int(mode, 8), owner, group)


def _id(table: TomlTable, name: str, find: Callable[[str], int | None]) -> int:
    text = table.text(name)
    if not text:
        return KEEP
    number = find(text)
    if number is None:
        table.fault(name, f"this host has no {'user' if name == 'owner' else name} {text[:64]!r}")
        return KEEP
    return number


def _rules(top: TomlTable) -> Rules:
    defaults = top.table("defaults")
    default_users = _users(defaults)
    defaults.end()
    by_key: dict[str, Users] = {}
    for name, table in top.table("keys").named_tables().items():
        by_key[name] = _users(table, required=True)
        table.end()
    return Rules(default_users, by_key)


def _users(table: TomlTable, *, required: bool = False) -> Users:
    names = table.strings("users", None if required else (), may_be_empty=True)
    if "*" in names:
        return ALL_USERS
    numbers = {name: host_users.uid_of(name) for name in names}
    for name in (name for name, number in numbers.items() if number is None):
        table.fault("users", f"this host has no user {name[:64]!r}")
    return frozenset(number for number in numbers.values() if number is not None)
