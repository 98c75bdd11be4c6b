"""Control requests about grants: which client may use which key for which purposes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from hsmd.protocol.messages.base import (
    AUDITOR,
    OPERATOR,
    DnsName,
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

__all__ = [
    "Explanation",
    "GrantAdd",
    "GrantExplain",
    "GrantInfo",
    "GrantLimit",
    "GrantList",
    "GrantPage",
    "GrantRemove",
]

MaxUses = Annotated[int, Meta(ge=1, lt=1 << 53)]
EndTime = Annotated[datetime, Meta(tz=True)]


class GrantLimit(Struct):
    """The limits of a grant for one purpose, and what is left of it."""

    id: int
    """The number of the grant, which the audit event `grant.used` names."""
    purpose: Annotated[str, PURPOSE.meta]
    uses: int
    """How many uses were counted."""
    not_after: datetime | None = None
    """When it ends; at that moment it has ended."""
    max_uses: int | None = None
    """The total of uses that it allows."""
    left: int | None = None
    """How many uses are left; null if their number is not limited."""
    held: bool = False
    """A backup was restored, so it is not known how many uses are left: it allows none until `max_uses` is given anew."""
    request: str = ""
    """The request that caused it."""
    names: list[str] = []
    """The names for which certificates may be requested."""
    unrecorded: int = 0
    """How many of the uses are in no log, a minute after they were counted: until their daemon is back and records them."""


class GrantInfo(Struct, omit_defaults=True):
    """The purposes for which one client may use one key."""

    client: str
    key: str
    purposes: list[Annotated[str, PURPOSE.meta]]
    """All of them, also those that `limits` lists."""
    limits: list[GrantLimit] = []
    """The limits of purposes that are limited."""


class GrantPage(Struct):
    """Grants in the order of client and key."""

    grants: list[GrantInfo]
    more: bool
    """Whether there are further ones."""


class GrantAdd(Request, tag="grant.add"):
    """Let a client use a key for these purposes, beside those of an earlier grant.

    With a limit (`not_after`, `max_uses` or `names`), each of the purposes has this limit and a count of its own. Given
    again, it changes the limits; those not given stay. Uses count on when a grant is removed and added again, and when
    client or key are renamed or added again. A purpose is granted either with limits or without.
    """

    Result = GrantInfo
    roles = OPERATOR
    changes = True
    subject = Subject(client="client", key="key")

    client: Name
    key: Name
    purposes: list[PurposeOrGroupLabel]
    not_after: EndTime | None = None
    """When the grant ends; at that moment it has ended."""
    max_uses: MaxUses | None = None
    """The total of uses for each purpose, those counted before included."""
    request: Text = ""
    """The request that causes this grant, for people; only with a limit."""
    names: list[DnsName] = []
    """For `x509-request`: the names for which certificates may be requested, such as `*.example.com`."""


class GrantList(Request, tag="grant.list"):
    """List all grants, or those of one client or one key."""

    Result = GrantPage
    roles = OPERATOR | AUDITOR
    changes = False
    subject = Subject(client="client", key="key")

    client: Text = ""
    """Only grants of this client; empty for those of all."""
    key: Text = ""
    """Only grants on this key; empty for those on all."""
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


class Explanation(Struct, omit_defaults=True):
    """What the daemon would decide, and the rule that decides."""

    allowed: bool
    rule: str
    """The short name of the rule, a colon, and a sentence for people."""
    limit: GrantLimit | None = None
    """The limits of the grant, if it is limited."""


class GrantExplain(Request, tag="grant.explain"):
    """Explain whether a client may use a key for a purpose, and why or why not."""

    Result = Explanation
    roles = OPERATOR | AUDITOR
    changes = False
    subject = Subject(client="client", key="key")

    client: Name
    key: Name
    purpose: PurposeLabel
