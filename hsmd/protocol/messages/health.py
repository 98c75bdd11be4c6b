"""Control requests about health: whether a handshake would work now, and what is in its way."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Struct

from hsmd.protocol.messages.base import ANY_ROLE, NO_SUBJECT, Request
from hsmd.protocol.messages.enumerations import CONDITION, DAEMON_LINK_STATE, LEVEL, SEVERITY

__all__ = ["DaemonLink", "Finding", "Health", "HealthRead"]


class Finding(Struct, omit_defaults=True):
    """Something that makes handshakes fail, or is going to."""

    condition: Annotated[str, CONDITION.meta]
    severity: Annotated[str, SEVERITY.meta]
    subject: str = ""
    """The token, key or daemon that it is about; empty if it is about the daemon or agent as a whole."""
    text: str = ""
    """What is wrong, for an operator."""
    next_step: str = ""
    """What an operator can do."""


class DaemonLink(Struct):
    """A daemon of an agent's configuration."""

    address: str
    state: Annotated[str, DAEMON_LINK_STATE.meta]
    reason: str = ""
    """Why it is not connected; empty if it is."""
    level: Annotated[str, LEVEL.meta] = ""
    """What the daemon says of its health; empty if that is not known, as from a daemon of an earlier release."""


class Health(Struct, omit_defaults=True):
    """The health of a daemon or an agent, and the findings that it follows from, the worst first.

    From a daemon to a client that is neither operator nor auditor: findings without text and next step.
    """

    level: Annotated[str, LEVEL.meta]
    findings: list[Finding] = []
    client: str = ""
    """From an agent: its client name."""
    version: str = ""
    """From an agent: its release."""
    started_at: datetime | None = None
    """From an agent: when it started."""
    daemons: list[DaemonLink] = []
    """From an agent: the daemons of its configuration, in that order."""
    keys: int = 0
    """From an agent: how many keys it knows."""
    compared_s: int = -1
    """From an agent: seconds since it last compared its keys with those of a daemon; -1 if it has not yet."""


class HealthRead(Request, tag="health.read"):
    """Return whether a handshake would work now, and what is in its way."""

    Result = Health
    roles = ANY_ROLE
    changes = False
    subject = NO_SUBJECT
    agents = True
