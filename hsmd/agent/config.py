"""agent.toml: read into frozen values. Unknown names are refused, and all faults are reported at once."""

from __future__ import annotations

import grp
import pwd
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsmd.agent.policy import EVERYONE, Rules, Users
from hsmd.client.endpoint import Endpoint, parse_address
from hsmd.errors import BadRequest, ConfigurationError, ProtocolError
from hsmd.transparency.discontinuity import operator_verifier
from hsmd.transparency.note import Verifier

MAX_CONFIG_BYTES = 1 << 20
DEFAULT_SOCKET = "/run/hsmd/agent.sock"
DEFAULT_STATE = "/var/lib/hsmd-agent"
MAX_SOCKET_PATH_BYTES = 100
"""Below the 108 bytes of sun_path, with room for the temporary name the socket is made under."""
KEEP = -1
"""For owner and group: leave it as it is."""

_MODE = re.compile(r"0?[0-7]{3}\Z")


@dataclass(frozen=True, slots=True)
class SocketConfig:
    """The local socket: its path and who may connect. `owner` and `group` are ids, -1 for the agent's own."""

    path: Path
    mode: int
    owner: int
    group: int


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What agent.toml says. `daemons` are tried in their order; `rules` is the local policy; `operators` may
    declare breaks of audit logs."""

    client: str
    socket: SocketConfig
    state: Path
    daemons: tuple[Endpoint, ...]
    rules: Rules
    operators: tuple[Verifier, ...] = ()


def load(path: Path) -> AgentConfig:
    """Reads and checks a file. Raises ConfigurationError that lists every fault in it."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES).decode("utf-8")
    except OSError as error:
        raise ConfigurationError(str(path), [error.strerror or str(error)]) from None
    except UnicodeDecodeError:
        raise ConfigurationError(str(path), ["not UTF-8"]) from None
    return parse(text, source=str(path))


def parse(text: str, *, source: str = "agent.toml") -> AgentConfig:
    """The configuration in a TOML document. Raises ConfigurationError that lists every fault in it."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(source, [f"not TOML: {error}"]) from None
    faults: list[str] = []
    config = _read(_Table("", document, faults))
    if faults or config is None:
        raise ConfigurationError(source, faults)
    return config


class _Table:
    """One TOML table being read: what is not taken in the end is unknown."""

    def __init__(self, name: str, values: dict[str, Any], faults: list[str]) -> None:
        self._name = name
        self._values = dict(values)
        self.faults = faults

    def where(self, name: str) -> str:
        return f"{self._name}.{name}" if self._name else name

    def fault(self, name: str, text: str) -> None:
        self.faults.append(f"{self.where(name)}: {text}")

    def _take(self, name: str, kind: type, called: str, default: Any) -> Any:
        value = self._values.pop(name, default)
        if value is None:
            self.fault(name, "missing")
        elif not isinstance(value, kind):
            self.fault(name, f"must be {called}")
            return default
        return value

    def text(self, name: str, default: str | None = None) -> str:
        return self._take(name, str, "a string", default) or ""

    def texts(self, name: str, default: list[str] | None = None) -> list[str]:
        values = self._take(name, list, "a list of strings", default) or []
        if not all(isinstance(value, str) for value in values):
            self.fault(name, "must be a list of strings")
            return []
        return list(values)

    def table(self, name: str) -> _Table:
        return _Table(self.where(name), self._take(name, dict, "a table", {}), self.faults)

    def tables(self, name: str) -> list[_Table]:
        values = self._take(name, list, f"written as [[{name}]]", [])
        good = [value for value in values if isinstance(value, dict)]
        return [_Table(f"{self.where(name)}[{at}]", value, self.faults) for at, value in enumerate(good)]

    def named_tables(self) -> dict[str, _Table]:
        return {name: self.table(name) for name in list(self._values)}

    def path(self, name: str, default: str | None = None) -> Path:
        text = self.text(name, default)
        if text and not text.startswith("/"):
            self.fault(name, f"{text[:80]!r} must be an absolute path")
        return Path(text)

    def finish(self) -> None:
        for name in self._values:
            self.fault(name, "unknown")


def _read(top: _Table) -> AgentConfig | None:
    agent = top.table("agent")
    socket = _socket(agent)
    state = agent.path("state", DEFAULT_STATE)
    client = agent.text("client")
    operators = _operators(agent)
    identity = agent.path("identity")
    certificate = agent.path("certificate", "") if "certificate" in agent._values else None
    agent.finish()
    daemons = [_daemon(table, client, identity, certificate) for table in top.tables("daemon")]
    if not daemons:
        top.fault("daemon", "none given; add a [[daemon]] with address and host_keys")
    addresses = [daemon.address for daemon in daemons if daemon is not None]
    for address in {address for address in addresses if addresses.count(address) > 1}:
        top.fault("daemon", f"{address} is listed twice")
    rules = _rules(top)
    top.finish()
    return AgentConfig(
        client, socket, state, tuple(daemon for daemon in daemons if daemon is not None), rules, operators
    )


def _socket(agent: _Table) -> SocketConfig:
    path = agent.path("socket", DEFAULT_SOCKET)
    if len(bytes(path)) > MAX_SOCKET_PATH_BYTES:
        agent.fault("socket", f"longer than {MAX_SOCKET_PATH_BYTES} bytes, which the system does not allow")
    if ".." in path.parts or path.name in ("", ".", ".."):
        agent.fault("socket", "must name a file, without ..")
    mode = agent.text("mode", "0660")
    if not _MODE.match(mode):
        agent.fault("mode", f"{mode[:20]!r} is not a mode like 0660")
        mode = "0"
    owner = _id(agent, "owner", lambda name: pwd.getpwnam(name).pw_uid)
    group = _id(agent, "group", lambda name: grp.getgrnam(name).gr_gid)
    return SocketConfig(path, int(mode, 8), owner, group)


def _operators(agent: _Table) -> tuple[Verifier, ...]:
    found = []
    for line in agent.texts("operator_keys", []):
        try:
            found.append(operator_verifier(line))
        except ProtocolError as error:
            agent.fault("operator_keys", error.text)
    return tuple(found)


def _id(table: _Table, name: str, find: Callable[[str], int]) -> int:
    text = table.text(name, "")
    if not text:
        return KEEP
    number = _number(text, find)
    if number is None:
        table.fault(name, f"this host has no {'user' if name == 'owner' else name} {text[:64]!r}")
        return KEEP
    return number


def _number(text: str, find: Callable[[str], int]) -> int | None:
    """The id that a name or a decimal number stands for."""
    if text.isascii() and text.isdigit() and len(text) <= 10:
        return int(text)
    try:
        return find(text)
    except (KeyError, ValueError):
        return None


def _daemon(table: _Table, client: str, identity: Path, certificate: Path | None) -> Endpoint | None:
    address = table.text("address")
    host_keys = table.texts("host_keys")
    table.finish()
    if not address or not client:
        return None
    try:
        host, port = parse_address(address)
        return Endpoint(host, port, tuple(host_keys), client, identity, certificate)
    except BadRequest as error:
        table.fault("address", error.text)
    except ConfigurationError as error:
        table.faults.extend(
            f"{table.where(fault)}" for fault in error.faults if not fault.startswith("user:")
        )
        if (
            any(fault.startswith("user:") for fault in error.faults)
            and f"agent.client: {_BAD_CLIENT}" not in table.faults
        ):
            table.faults.append(f"agent.client: {_BAD_CLIENT}")
    return None


_BAD_CLIENT = "not a client name (letters, digits, . _ -; at most 64)"


def _rules(top: _Table) -> Rules:
    defaults = top.table("defaults")
    default_users = _users(defaults)
    defaults.finish()
    by_key: dict[str, Users] = {}
    for name, table in top.table("keys").named_tables().items():
        by_key[name] = _users(table, required=True)
        table.finish()
    return Rules(default_users, by_key)


def _users(table: _Table, *, required: bool = False) -> Users:
    names = table.texts("users", None if required else [])
    if "*" in names:
        return EVERYONE
    numbers = {name: _number(name, lambda name: pwd.getpwnam(name).pw_uid) for name in names}
    for name in (name for name, number in numbers.items() if number is None):
        table.fault("users", f"this host has no user {name[:64]!r}")
    return frozenset(number for number in numbers.values() if number is not None)
