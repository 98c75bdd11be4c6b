"""What the commands of `hsmd statement` share: the group, and the keys of a daemon as it lists them."""

from __future__ import annotations

from hsmd.cli.base.commands import group
from hsmd.cli.base.connection import Session
from hsmd.protocol.messages import StatementKeyList, StatementKeys

app = group(
    """Statements that daemons sign.

    A statement is a signed note: what the daemon answered, received or ordered, which anyone with its key can verify without the
    daemon. The keys that sign statements sign nothing else. Clients receive them when they enroll; after that they accept a new
    key only if an operator has endorsed it."""
)


def listed(session: Session) -> StatementKeyList:
    """The daemon's statement keys."""
    return session.ask(StatementKeys(), StatementKeyList)
