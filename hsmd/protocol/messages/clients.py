"""Control requests about clients and what they come with."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from hsmd.protocol.messages.base import Done, Name, Page, Request, Text


class ClientInfo(Struct):
    """A client and the credentials it may come with (SHA-256 fingerprints as OpenSSH prints them)."""

    name: str
    role: str
    fingerprints: list[str]
    created_at: datetime


class ClientPage(Struct):
    """Clients in the order of their names."""

    clients: list[ClientInfo]
    more: bool


class ClientAdd(Request, tag="client.add"):
    """Operator: a new client, or a further key for one; `public_key` is one OpenSSH public key line, empty for a
    client that comes with certificates only."""

    Result: ClassVar = ClientInfo
    name: Name
    role: Text = "front-end"
    public_key: Annotated[str, Meta(max_length=2_000)] = ""


class ClientList(Request, tag="client.list"):
    """Operator, auditor."""

    Result: ClassVar = ClientPage
    after: Text = ""
    limit: Page = 100


class ClientRemove(Request, tag="client.remove"):
    """Operator: remove a client, its credentials and its grants; open connections of it are closed."""

    Result: ClassVar = Done
    name: Name


class ClientTrustCa(Request, tag="client.trust-ca"):
    """Operator: accept user certificates of this OpenSSH CA key for the named clients only."""

    Result: ClassVar = Done
    public_key: Annotated[str, Meta(max_length=2_000)]
    clients: list[Name]


REQUESTS: tuple[type[Request], ...] = (ClientAdd, ClientList, ClientRemove, ClientTrustCa)
