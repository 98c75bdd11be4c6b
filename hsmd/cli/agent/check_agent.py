"""Checks of the path from a user of this host to its keys: socket, agent, daemons, grants."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hsmd.cli.agent import check_access
from hsmd.cli.agent.check_access import Wanted
from hsmd.cli.agent.check_results import Finding, bad, good, warning
from hsmd.cli.agent.handshake import Actor
from hsmd.cli.base.connection import DEFAULT_TIMEOUT_S
from hsmd.cli.base.paging import keys_at
from hsmd.errors import ConfigurationError, HsmdError, NotFound, Refused
from hsmd.protocol.messages import Identity, KeyInfo, KeyShow, UpstreamDaemon, WhoAmI
from hsmd.system.host_users import Account

LOG_REFUSED = (
    "find out why on the key host (hsmd audit verify): an audit log never shrinks or changes. After a restore from backup, an"
    " operator runs `hsmd audit discontinuity`; without a pinned operator key: hsmd agent witness reset ORIGIN --yes"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the agent shows to the caller: the client that it is (empty: it does not answer), and the keys that were asked for."""

    client: str = ""
    keys: Mapping[str, KeyInfo] = field(default_factory=dict)
    connected: bool = False


def check_agent(socket: Path, actor: Actor, names: Sequence[str]) -> tuple[list[Finding], Seen]:
    """Check socket, agent, daemons and, for each of these keys, the grant."""
    found = [_socket(socket)]
    if actor.account is not None and actor.chroot is None:
        found.append(check_access.check(actor, Wanted(socket, "use", "-w")))
    if not found[0].ok:
        return found, Seen()
    upstream, identity = _daemon(socket)
    found += upstream
    if identity is None:
        return found, Seen()
    grants, keys = _grants(socket, identity, names)
    return [*found, *grants], Seen(identity.client, keys, bool(identity.daemon))


def _socket(path: Path) -> Finding:
    start = "start the agent: systemctl start hsmd-agent, or hsmd agent run"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return bad("socket", f"{path}: {error.strerror}", start)
    if not stat.S_ISSOCK(mode):
        return bad("socket", f"{path} is not a socket", "remove it, then " + start)
    return good("socket", str(path))


_ASKED_ONE_BY_ONE = 16
TOO_MANY_KEYS = "spread the grants over several clients, each with an agent of its own"


def _daemon(socket: Path) -> tuple[list[Finding], Identity | None]:
    """Check that the agent answers and is connected; also return its identity if it answered."""
    try:
        identity = _ask(socket, WhoAmI())
    except HsmdError as error:
        return [bad("agent", error.text, "restart the agent and check its log")], None
    assert isinstance(identity, Identity)
    found = [good("agent", f"running as client {identity.client}")]
    found += [good("audit log", f"a break was accepted: {_one_line(notice)}") for notice in identity.notices]
    found += [bad("keys", text, TOO_MANY_KEYS) for text in identity.warnings]
    refused = warning if identity.daemon else bad
    found += [refused("audit log", problem, LOG_REFUSED) for problem in identity.problems]
    return [*found, *_upstreams(identity)], identity


def _upstreams(identity: Identity) -> list[Finding]:
    """One finding for each daemon; an agent of an earlier release names only the one in use."""
    daemons = identity.daemons or [UpstreamDaemon(identity.daemon, connected=bool(identity.daemon))]
    if not identity.daemon:
        fix = f"check network, address and host key in agent.toml, and that {identity.client} is registered (hsmd client list)"
        return [bad("daemon", "the agent is not connected to a daemon; see its log", fix)]
    fix = "check that it runs and can be reached; the agent's log says why it is not connected"
    return [
        good("daemon", f"connected to {each.address}")
        if each.connected
        else warning("daemon", f"not connected to {each.address}; {identity.daemon} serves meanwhile", fix)
        for each in daemons
    ]


def _grants(
    socket: Path, identity: Identity, names: Sequence[str]
) -> tuple[list[Finding], dict[str, KeyInfo]]:
    """The keys of these names; of many, as the agent has them, without asking the daemon about each."""
    try:
        keys = shown(socket, names)
    except HsmdError as error:
        return [bad("grant", error.text, "fix the connection to the daemon first")], {}
    return [_grant(identity, name, keys.get(name)) for name in names], keys


def shown(socket: Path, names: Sequence[str]) -> dict[str, KeyInfo]:
    """What the agent shows of these keys by name, of those that it knows. Raises HsmdError."""
    from hsmd.client import AgentEndpoint, Client

    with Client.connect(AgentEndpoint(socket)) as agent:
        if len(names) > _ASKED_ONE_BY_ONE:
            return {info.name: info for info in keys_at(agent, DEFAULT_TIMEOUT_S)}
        found = {}
        for name in names:
            with suppress(NotFound, Refused):
                found[name] = agent.control(KeyShow(name), timeout_s=DEFAULT_TIMEOUT_S)
        return found


def _grant(identity: Identity, name: str, info: KeyInfo | None) -> Finding:
    if info is None:
        fix = f"an operator runs: hsmd grant add {identity.client} {name}; agent.toml must also allow you to use the key"
        return bad("grant", f"{identity.client} has no grant for a key {name}, or you may not use it", fix)
    return good("grant", f"{identity.client} may use {name} ({info.key_type})")


def check_policy(config: Path, account: Account | None, names: Sequence[str]) -> list[Finding]:
    """Check that agent.toml allows a user to use keys; empty if there is no user to check or the file is not readable."""
    from hsmd.agent.config import load

    if account is None or not os.access(config, os.R_OK):
        return []
    try:
        rules = load(config).rules
    except ConfigurationError as error:
        return [bad("agent.toml", "; ".join(error.faults), f"correct {config}")]
    fix = f"add {account.name} to its `users`, then: systemctl reload hsmd-agent"
    return [
        good("local policy", f"{account.name} may use {name}")
        if rules.allow(account.uid, name)
        else bad("local policy", f"{config} does not allow {account.name} to use {name}", fix)
        for name in names
    ]


def _ask(socket: Path, request: WhoAmI) -> object:
    from hsmd.client import AgentEndpoint, Client

    with Client.connect(AgentEndpoint(socket)) as agent:
        return agent.control(request, timeout_s=DEFAULT_TIMEOUT_S)


def _one_line(text: str) -> str:
    return "; ".join(text.split("\n")[1:-1])
