"""Checks of the path from a user of this host to a key: socket, agent, daemon, grant."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hsmd.cli.agent import check_access
from hsmd.cli.agent.check_access import Wanted
from hsmd.cli.agent.check_results import Finding, bad, good
from hsmd.cli.base.connection import DEFAULT_TIMEOUT_S
from hsmd.errors import ConfigurationError, HsmdError, NotFound, Refused
from hsmd.protocol.messages import Identity, KeyInfo, KeyShow, WhoAmI
from hsmd.system import host_users

LOG_REFUSED = (
    "find out why on the key host (hsmd audit verify): an audit log never shrinks or changes. After a restore from backup, an"
    " operator runs `hsmd audit discontinuity`; without a pinned operator key: hsmd agent witness reset ORIGIN --yes"
)


def check_agent(socket: Path, key: str, user: str) -> tuple[list[Finding], KeyInfo | None]:
    """Check socket, agent, daemon and grant; also return the key's properties if the daemon answered."""
    found = [_socket(socket)]
    if user:
        found.append(check_access.check(user, Wanted(socket, "use", "-w")))
    if not found[0].ok:
        return found, None
    upstream, identity = _daemon(socket)
    found += upstream
    if identity is None:
        return found, None
    grant, info = _grant(socket, identity, key)
    return [*found, grant], info


def _socket(path: Path) -> Finding:
    start = "start the agent: systemctl start hsmd-agent, or hsmd agent run"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return bad("socket", f"{path}: {error.strerror}", start)
    if not stat.S_ISSOCK(mode):
        return bad("socket", f"{path} is not a socket", "remove it, then " + start)
    return good("socket", str(path))


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
    found += [bad("keys", warning, TOO_MANY_KEYS) for warning in identity.warnings]
    if identity.daemon:
        found += [bad("audit log", problem, LOG_REFUSED) for problem in identity.problems]
        return [*found, good("daemon", f"connected to {identity.daemon}")], identity
    found += [bad("audit log", problem, LOG_REFUSED) for problem in identity.problems]
    fix = f"check network, address and host key in agent.toml, and that {identity.client} is registered (hsmd client list)"
    return [*found, bad("daemon", "the agent is not connected to a daemon; see its log", fix)], identity


def _grant(socket: Path, identity: Identity, key: str) -> tuple[Finding, KeyInfo | None]:
    try:
        info = _ask(socket, KeyShow(key))
    except (NotFound, Refused):
        fix = f"an operator runs: hsmd grant add {identity.client} {key}; agent.toml must also allow you to use the key"
        return bad(
            "grant", f"{identity.client} has no grant for a key {key}, or you may not use it", fix
        ), None
    except HsmdError as error:
        return bad("grant", error.text, "fix the connection to the daemon first"), None
    assert isinstance(info, KeyInfo)
    return good("grant", f"{identity.client} may use {key} ({info.key_type})"), info


def check_policy(config: Path, key: str, user: str) -> list[Finding]:
    """Check that agent.toml allows `user` to use the key; empty if there is no user to check or the file is not readable."""
    from hsmd.agent.config import load

    uid = host_users.uid_of(user)
    if uid is None or not os.access(config, os.R_OK):
        return []  # `permissions` has reported an unknown user
    try:
        allowed = load(config).rules.allow(uid, key)
    except ConfigurationError as error:
        return [bad("agent.toml", "; ".join(error.faults), f"correct {config}")]
    if not allowed:
        return [
            bad(
                "local policy",
                f"{config} does not allow {user} to use {key}",
                f"add {user} to its `users`, then reload the agent",
            )
        ]
    return [good("local policy", f"{user} may use {key}")]


def _ask(socket: Path, request: WhoAmI | KeyShow) -> object:
    from hsmd.client import AgentEndpoint, Client

    with Client.connect(AgentEndpoint(socket)) as agent:
        return agent.control(request, timeout_s=DEFAULT_TIMEOUT_S)


def _one_line(text: str) -> str:
    return "; ".join(text.split("\n")[1:-1])
