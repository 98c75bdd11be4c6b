"""Control requests about grants: which client may use which key for which purposes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from hsmd.protocol.messages.base import (
    AUDITOR,
    OPERATOR,
    Done,
    Name,
    Page,
    PurposeLabel,
    PurposeOrGroupLabel,
    Request,
    Subject,
    Text,
)
from hsmd.protocol.messages.enumerations import PURPOSE

__all__ = ["Explanation", "GrantAdd", "GrantExplain", "GrantInfo", "GrantList", "GrantPage", "GrantRemove"]


class GrantInfo(Struct):
    """The purposes for which one client may use one key."""

    client: str
    key: str
    purposes: list[Annotated[str, PURPOSE.meta]]


class GrantPage(Struct):
    """Grants in the order of client and key."""

    grants: list[GrantInfo]
    more: bool
    """Whether there are further ones."""


class GrantAdd(Request, tag="grant.add"):
    """Let a client use a key for these purposes, beside those of an earlier grant."""

    Result = GrantInfo
    roles = OPERATOR
    changes = True
    subject = Subject(client="client", key="key")

    client: Name
    key: Name
    purposes: list[PurposeOrGroupLabel]


class GrantList(Request, tag="grant.list"):
    """List all grants, or those of one client or one key."""

    Result = GrantPage
    roles = OPERATOR | AUDITOR
    changes = False
    subject = Subject(client="client", key="key")

    client: Text = ""
    key: Text = ""
    after: Text = ""
    """Where the page starts: behind the grant `CLIENT/KEY`, the last one of the page before."""
    limit: Page = 100


class GrantRemove(Request, tag="grant.remove"):
    """Remove purposes from a grant; without `purposes` the whole grant."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(client="client", key="key")

    client: Name
    key: Name
    purposes: list[PurposeOrGroupLabel] = []


class Explanation(Struct):
    """What the daemon would decide, and the rule that decides."""

    allowed: bool
    rule: str
    """The short name of the rule, a colon, and a sentence for people."""


class GrantExplain(Request, tag="grant.explain"):
    """Explain whether a client may use a key for a purpose, and why or why not."""

    Result = Explanation
    roles = OPERATOR | AUDITOR
    changes = False
    subject = Subject(client="client", key="key")

    client: Name
    key: Name
    purpose: PurposeLabel
