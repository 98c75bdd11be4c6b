"""Notes of what the newest versions of the contents changed, within one transaction; triggers of the database write them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sqlalchemy import Connection, delete, select, update

from hsmd.daemon.store.contents import Standing
from hsmd.daemon.store.tables import changes, ledger, state
from hsmd.errors import StoreFailure

MOST_NOTES = 20_000
"""Notes that are kept; a daemon that lacks more changes than that reads everything again."""
PRUNE_EVERY = 64
"""Versions between two removals of older notes."""


class Kind(StrEnum):
    """What a note is about, and so how its item is written."""

    CLIENT = "client"
    KEY = "key"
    CERTIFICATE = "certificate"
    """By the row id of the key."""
    GRANT = "grant"
    """All that a client may do with a key: CLIENT ROW/KEY ROW."""
    USER_CA = "user-ca"
    REVOCATION = "revocation"
    ENDORSEMENT = "endorsement"


class ChangeNotes:
    """What changed since a version, as far as it is remembered."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def standing(self) -> Standing:
        """The version of the contents now, and the epoch to which it belongs."""
        epoch = select(ledger.c.epoch).scalar_subquery()
        row = self._connection.execute(select(state.c.version, epoch)).one_or_none()
        if row is None:
            raise StoreFailure("the store is damaged", detail="no version row")
        return Standing(*row)

    def since(self, known: Standing, now: Standing) -> Mapping[Kind, frozenset[str]] | None:
        """The items that changed after the version `known` up to `now`; None if that is not remembered.

        It is not if the store was restored meanwhile, or if too much has changed. Kinds of later releases are left out: what
        this release does not read cannot change for it.
        """
        if known.epoch != now.epoch or known.version > now.version:
            return None
        if known.version < (self._connection.scalar(select(state.c.noted_after)) or 0):
            return None
        found: dict[Kind, set[str]] = {kind: set() for kind in Kind}
        query = select(changes.c.kind, changes.c.item).where(changes.c.version > known.version)
        for kind, item in self._connection.execute(query):
            if kind in found:
                found[Kind(kind)].add(item)
        return {kind: frozenset(items) for kind, items in found.items()}

    def prune(self, version: int) -> None:
        """Remove the notes of the oldest versions if there are more than `MOST_NOTES`; part of the write of `version`."""
        if version % PRUNE_EVERY:
            return
        newest_first = select(changes.c.version).order_by(
            changes.c.version.desc(), changes.c.kind.desc(), changes.c.item.desc()
        )
        last = self._connection.scalar(newest_first.offset(MOST_NOTES).limit(1))
        if last is not None:
            self._connection.execute(delete(changes).where(changes.c.version <= last))
            self._connection.execute(update(state).values(noted_after=last))
