"""Complete lists from a daemon that answers in pages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from hsmd.cli.base.connection import SLOW_TIMEOUT_S, Session
from hsmd.cli.base.name_patterns import Progress
from hsmd.errors import BadRequest
from hsmd.protocol.messages import (
    MAX_PAGE,
    AuthorityInfo,
    AuthorityPage,
    CaAllowed,
    CaCertificates,
    CaList,
    CertificateServed,
    ClientInfo,
    ClientList,
    ClientPage,
    ClientRevoked,
    GrantInfo,
    GrantList,
    GrantPage,
    IssuedInfo,
    IssuedPage,
    KeyCandidateList,
    KeyCandidates,
    KeyHistory,
    KeyHistoryPage,
    KeyInfo,
    KeyList,
    KeyOwner,
    KeyOwnerList,
    KeyOwners,
    KeyPage,
    ManagementKeyInfo,
    ManagementKeyList,
    NodePermit,
    NodePermitPage,
    PastKey,
    Revocation,
    RevocationPage,
    ServedBy,
    ServedByPage,
    VaultCheckPage,
    VaultChecks,
    VaultCheckSum,
    VaultKeys,
    VaultList,
    VaultPage,
    VaultShow,
    VaultVersion,
    VaultVersions,
)

if TYPE_CHECKING:
    from hsmd.client import Client

T = TypeVar("T")


def keys_of(session: Session) -> list[KeyInfo]:
    """All keys the caller may see."""

    def page(after: str) -> tuple[list[KeyInfo], bool]:
        answer = session.ask(KeyList(after=after, limit=MAX_PAGE), KeyPage)
        return answer.keys, answer.more

    return list(_all(page, lambda key: key.name))


def authorities_of(session: Session) -> list[AuthorityInfo]:
    """All certificate authorities."""

    def page(after: str) -> tuple[list[AuthorityInfo], bool]:
        answer = session.ask(CaList(after=after, limit=MAX_PAGE), AuthorityPage)
        return answer.authorities, answer.more

    return list(_all(page, lambda authority: authority.name))


def issued_by(session: Session, authority: str, *, revoked: bool) -> list[IssuedInfo]:
    """All certificates that an authority has issued, or those that are revoked."""
    found: list[IssuedInfo] = []
    while True:
        after = found[-1].number if found else 0
        wanted = CaCertificates(authority=authority, revoked=revoked, after=after, limit=MAX_PAGE)
        answer = session.ask(wanted, IssuedPage)
        found += answer.certificates
        if not answer.more or not answer.certificates:
            return found


def permits_of(session: Session, authority: str) -> list[NodePermit]:
    """What an authority issues to nodes."""

    def page(after: str) -> tuple[list[NodePermit], bool]:
        wanted = CaAllowed(authority=authority, after=after, limit=MAX_PAGE)
        answer = session.ask(wanted, NodePermitPage)
        return answer.permits, answer.more

    return list(_all(page, lambda permit: permit.client))


def front_ends_of(session: Session, key: str) -> list[ServedBy]:
    """All front ends that have a grant on a key, with the certificates that they have reported to serve."""

    def page(after: str) -> tuple[list[ServedBy], bool]:
        answer = session.ask(CertificateServed(key=key, after=after, limit=MAX_PAGE), ServedByPage)
        return answer.clients, answer.more

    return list(_all(page, lambda front_end: front_end.client))


def candidates_of(session: Session, token: str, *, served: bool = False) -> KeyCandidateList:
    """All private keys in a token that are not served; with `served` also the others."""
    found = session.ask(KeyCandidates(token=token, served=served), KeyCandidateList, timeout_s=SLOW_TIMEOUT_S)
    while found.cursor:
        wanted = KeyCandidates(token=token, cursor=found.cursor, served=served)
        page = session.ask(wanted, KeyCandidateList, timeout_s=SLOW_TIMEOUT_S)
        found.keys += page.keys
        found.cursor = page.cursor
    return found


def keys_at(agent: Client, timeout_s: float) -> list[KeyInfo]:
    """All keys that an agent shows to this user."""

    def page(after: str) -> tuple[list[KeyInfo], bool]:
        answer: KeyPage = agent.control(KeyList(after=after, limit=MAX_PAGE), timeout_s=timeout_s)
        return answer.keys, answer.more

    return list(_all(page, lambda key: key.name))


def destroyed_keys_of(session: Session) -> list[PastKey]:
    """All keys that were destroyed, of those that the caller may see."""
    found: list[PastKey] = []
    while True:
        answer = session.ask(
            KeyHistory(after=found[-1].number if found else 0, limit=MAX_PAGE), KeyHistoryPage
        )
        found += answer.keys
        if not answer.more or not answer.keys:
            return found


def readers_of(session: Session) -> list[KeyOwner]:
    """The readers of all keys. A daemon of an earlier release knows no pages, and gives all at once."""

    def page(after: str) -> tuple[list[KeyOwner], bool]:
        try:
            answer = session.ask(KeyOwnerList(after=after, limit=MAX_PAGE), KeyOwners)
        except BadRequest:
            if after:
                raise
            answer = session.ask(KeyOwnerList(), KeyOwners)
        return answer.owners, answer.more

    return list(_all(page, lambda reader: f"{reader.key}/{reader.client}"))


def clients_of(session: Session) -> list[ClientInfo]:
    """All clients."""

    def page(after: str) -> tuple[list[ClientInfo], bool]:
        answer = session.ask(ClientList(after=after, limit=MAX_PAGE), ClientPage)
        return answer.clients, answer.more

    return list(_all(page, lambda client: client.name))


def revocations_of(session: Session) -> list[Revocation]:
    """All revoked credentials."""
    found: list[Revocation] = []
    while True:
        answer = session.ask(ClientRevoked(after=len(found), limit=MAX_PAGE), RevocationPage)
        found += answer.revocations
        if not answer.more or not answer.revocations:
            return found


def grants_of(session: Session, client: str, key: str) -> list[GrantInfo]:
    """All grants, or those of one client, one key, or both."""

    def page(after: str) -> tuple[list[GrantInfo], bool]:
        answer = session.ask(GrantList(client=client, key=key, after=after, limit=MAX_PAGE), GrantPage)
        return answer.grants, answer.more

    return list(_all(page, lambda grant: f"{grant.client}/{grant.key}"))


def records_of(session: Session) -> list[VaultVersion]:
    """The newest version of each of the caller's records in the vault."""

    def page(after: str) -> tuple[list[VaultVersion], bool]:
        answer = session.ask(VaultList(after=after, limit=MAX_PAGE), VaultPage)
        return answer.records, answer.more

    return list(_all(page, lambda version: version.record))


def versions_of(session: Session, record: str) -> list[VaultVersion]:
    """All versions of a record in the vault, the newest first."""

    def page(before: str) -> tuple[list[VaultVersion], bool]:
        answer = session.ask(VaultShow(record, before=int(before or 0), limit=MAX_PAGE), VaultVersions)
        return answer.versions, answer.more

    return list(_all(page, lambda version: str(version.version)))


def management_keys_of(session: Session, owner: str = "") -> list[ManagementKeyInfo]:
    """All management keys of an owner (empty: the caller), the newest first."""

    def page(before: str) -> tuple[list[ManagementKeyInfo], bool]:
        answer = session.ask(VaultKeys(owner, before=int(before or 0), limit=MAX_PAGE), ManagementKeyList)
        return answer.keys, answer.more

    return list(_all(page, lambda key: str(key.number)))


def checks_of(session: Session) -> list[VaultCheckSum]:
    """All sums of checks against the caller's records."""
    found: list[VaultCheckSum] = []
    after = ""
    while True:
        answer = session.ask(VaultChecks(after=after, limit=MAX_PAGE), VaultCheckPage)
        found += answer.sums
        if not answer.more or not answer.sums or answer.cursor == after:
            return found
        after = answer.cursor


def _all(page: Callable[[str], tuple[list[T], bool]], position: Callable[[T], str]) -> Iterator[T]:
    """Every item. Ends at an empty page even if it announces more, so that no server can keep a client in a loop.

    On a terminal it tells how far it is, if that takes long.
    """
    progress = Progress("read:", 0)
    after = ""
    while True:
        items, more = page(after)
        yield from items
        if not more or not items:
            return
        after = position(items[-1])
        if sys.stderr.isatty():
            progress.step(len(items))
