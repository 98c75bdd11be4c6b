"""Control requests about grants: who may use which key what for."""

from __future__ import annotations

from msgspec import Struct

from hsmd.protocol.messages.base import (
    AUDITOR,
    OPERATOR,
    Done,
    Name,
    Page,
    PurposeLabel,
    Request,
    Subject,
    Text,
)

__all__ = ["Explanation", "GrantAdd", "GrantExplain", "GrantInfo", "GrantList", "GrantPage", "GrantRemove"]


class GrantInfo(Struct):
    """One client may use one key for these purposes."""

    client: str
    key: str
    purposes: list[str]


class GrantPage(Struct):
    """Grants in the order of client and key."""

    grants: list[GrantInfo]
    more: bool


class GrantAdd(Request, tag="grant.add"):
    """Operator: let a client use a key for these purposes too."""

    Result = GrantInfo
    roles = OPERATOR
    changes = True
    subject = Subject(client="client", key="key")

    client: Name
    key: Name
    purposes: list[PurposeLabel]


class GrantList(Request, tag="grant.list"):
    """Operator, auditor: all grants, or those of one client or one key."""

    Result = GrantPage
    roles = OPERATOR | AUDITOR
    changes = False
    subject = Subject(client="client", key="key")

    client: Text = ""
    key: Text = ""
    after: Text = ""
    limit: Page = 100


class GrantRemove(Request, tag="grant.remove"):
    """Operator: take purposes back; none named means all."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(client="client", key="key")

    client: Name
    key: Name
    purposes: list[PurposeLabel] = []


class Explanation(Struct):
    """What the decision would be, and which rule decides."""

    allowed: bool
    rule: str


class GrantExplain(Request, tag="grant.explain"):
    """Operator, auditor: may this client use this key for this purpose, and why (not)?"""

    Result = Explanation
    roles = OPERATOR | AUDITOR
    changes = False
    subject = Subject(client="client", key="key")

    client: Name
    key: Name
    purpose: PurposeLabel
