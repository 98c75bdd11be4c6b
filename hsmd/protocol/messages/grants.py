"""Control requests about grants: who may use which key what for."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct

from hsmd.protocol.messages.base import Done, Name, Page, PurposeLabel, Request, Text


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

    Result: ClassVar = GrantInfo
    client: Name
    key: Name
    purposes: list[PurposeLabel]


class GrantList(Request, tag="grant.list"):
    """Operator, auditor: all grants, or those of one client or one key."""

    Result: ClassVar = GrantPage
    client: Text = ""
    key: Text = ""
    after: Text = ""
    limit: Page = 100


class GrantRemove(Request, tag="grant.remove"):
    """Operator: take purposes back; none named means all."""

    Result: ClassVar = Done
    client: Name
    key: Name
    purposes: list[PurposeLabel] = []


class Explanation(Struct):
    """What the decision would be, and which rule decides."""

    allowed: bool
    rule: str


class GrantExplain(Request, tag="grant.explain"):
    """Operator, auditor: may this client use this key for this purpose, and why (not)?"""

    Result: ClassVar = Explanation
    client: Name
    key: Name
    purpose: PurposeLabel


REQUESTS: tuple[type[Request], ...] = (GrantAdd, GrantList, GrantRemove, GrantExplain)
