"""What a daemon must read to have the newest contents: the rows that changed since it read them, or all rows.

All rows are read by their ids in parts of a few hundred. Between them `pause` is called, so that the reading thread can let
others run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Column, Connection, Select, select, tuple_

from hsmd.daemon.store.change_notes import ChangeNotes, Kind
from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.columns import chunks, in_pairs
from hsmd.daemon.store.contents import CertificateMark, Difference, Held, Standing, TrustedCa
from hsmd.daemon.store.endorsement_rows import StatementEndorsements
from hsmd.daemon.store.history_rows import KeyHistory
from hsmd.daemon.store.key_rows import Keys
from hsmd.daemon.store.limited_grant_rows import LimitedGrants
from hsmd.daemon.store.records import KeyOwner, KeyRecord, LimitedGrantRecord, chain_mark
from hsmd.daemon.store.tables import (
    ca_clients,
    cas,
    certificates,
    clients,
    grants,
    keys,
    limited_grants,
    revocations,
)

_MARK = select(
    (revocations.c.kind + " " + revocations.c.ca_fingerprint + " " + revocations.c.value).label("mark")
)
_PART = 500
"""Rows that are read at a time."""

Pause = Callable[[], None]
Pair = tuple[int, int]


def no_pause() -> None:
    """For a thread that need not let others run."""


class Differences:
    """Reads what changed, by the notes about it."""

    def __init__(
        self,
        connection: Connection,
        notes: ChangeNotes,
        client_rows: Clients,
        key_rows: Keys,
        history: KeyHistory,
        limited: LimitedGrants,
        endorsements: StatementEndorsements,
    ) -> None:
        self._connection = connection
        self._notes = notes
        self._clients = client_rows
        self._keys = key_rows
        self._history = history
        self._limited = limited
        self._endorsements = endorsements

    def since(self, known: Standing | None, pause: Pause = no_pause) -> Difference:
        """What is different from the contents at `known`; all rows if that is None or too long ago."""
        now = self._notes.standing()
        noted = None if known is None else self._notes.since(known, now)
        return self._whole(now, pause) if noted is None else self._noted(now, noted, pause)

    # --- some rows ---

    def _noted(self, now: Standing, noted: Mapping[Kind, frozenset[str]], pause: Pause) -> Difference:
        found = Difference(now)
        for client_ids in chunks(_numbers(noted[Kind.CLIENT])):
            found.clients |= dict.fromkeys(client_ids)
            found.clients |= {client.row: client for client in self._clients.of_rows(client_ids)}
            pause()
        for key_ids in chunks(_numbers(noted[Kind.KEY])):
            found.keys |= dict.fromkeys(key_ids)
            found.keys |= {key.row: _without_owner_name(key) for key in self._keys.of_rows(key_ids)}
            pause()
        for key_ids in chunks(_numbers(noted[Kind.CERTIFICATE])):
            found.certificates |= dict.fromkeys(key_ids)
            found.certificates |= self._certificates(certificates.c.key_id.in_(key_ids))
            pause()
        for pairs in chunks(sorted(map(_pair, noted[Kind.GRANT]))):
            found.grants |= dict.fromkeys(pairs)
            found.grants |= self._held(pairs)
            pause()
        for fingerprints in chunks(sorted(noted[Kind.USER_CA])):
            found.user_cas |= dict.fromkeys(fingerprints)
            found.user_cas |= self._trusted(cas.c.fingerprint.in_(fingerprints))
        found.revoked = noted[Kind.REVOCATION]
        if noted[Kind.ENDORSEMENT]:
            found.endorsements = tuple(self._endorsements.all())
        if found.keys:
            found.history_behind = self._history.is_behind_of(list(found.keys))
        return found

    def _held(self, pairs: Sequence[Pair]) -> dict[Pair, Held]:
        """What stands in the rows of these clients and keys."""
        codes: dict[Pair, set[int]] = defaultdict(set)
        query = select(grants).where(in_pairs(grants.c.client_id, grants.c.key_id, pairs))
        for client_id, key_id, code in self._connection.execute(query):
            codes[client_id, key_id].add(code)
        limited = {pair: of for pair, of in self._limited.of_pairs(pairs).items() if of}
        return {
            pair: Held(frozenset(codes.get(pair, ())), _nameless(limited.get(pair, ())))
            for pair in codes.keys() | limited.keys()
        }

    # --- all rows ---

    def _whole(self, now: Standing, pause: Pause) -> Difference:
        found = Difference(now, whole=True)
        for client_ids in self._ids(clients.c.id):
            found.clients |= {client.row: client for client in self._clients.of_rows(client_ids)}
            pause()
        for key_ids in self._ids(keys.c.id):
            found.keys |= {key.row: _without_owner_name(key) for key in self._keys.of_rows(key_ids)}
            pause()
        for key_ids in self._ids(certificates.c.key_id):
            found.certificates |= self._certificates(certificates.c.key_id.in_(key_ids))
            pause()
        found.grants |= self._all_held(pause)
        found.user_cas |= self._trusted()
        pause()
        found.revoked = frozenset(self._connection.scalars(_MARK))
        found.endorsements = tuple(self._endorsements.all())
        pause()
        found.history_behind = self._history.behind
        return found

    def _ids(self, column: Column[Any]) -> Iterator[Sequence[int]]:
        """The values of an indexed column in parts, in their order."""
        query = select(column).order_by(column).limit(_PART)
        part = self._connection.scalars(query).all()
        while part:
            yield part
            part = self._connection.scalars(query.where(column > part[-1])).all()

    def _all_held(self, pause: Pause) -> dict[Pair, Held]:
        found: dict[Pair, Held] = {}
        shared: dict[frozenset[int], Held] = {}
        """Few sets of purposes are granted, to many clients."""
        for pair, codes in self._codes(pause):
            found[pair] = shared.setdefault(codes, Held(codes))
        limited: dict[Pair, list[LimitedGrantRecord]] = defaultdict(list)
        for ids in self._ids(limited_grants.c.id):
            for pair, record in self._limited.of_rows(ids):
                limited[pair].append(record)
            pause()
        for pair, records in limited.items():
            codes = found[pair].purposes if pair in found else frozenset[int]()
            found[pair] = Held(codes, _nameless(sorted(records, key=lambda each: each.purpose)))
        return found

    def _codes(self, pause: Pause) -> Iterator[tuple[Pair, frozenset[int]]]:
        """The purposes without limits of each pair, in the order of the rows."""
        current: Pair | None = None
        codes: set[int] = set()
        for client_id, key_id, code in self._grant_rows(pause):
            if (client_id, key_id) != current:
                if current is not None:
                    yield current, frozenset(codes)
                current, codes = (client_id, key_id), set()
            codes.add(code)
        if current is not None:
            yield current, frozenset(codes)

    def _grant_rows(self, pause: Pause) -> Iterator[tuple[int, int, int]]:
        position = tuple_(grants.c.client_id, grants.c.key_id, grants.c.purpose)
        query = (
            select(grants.c.client_id, grants.c.key_id, grants.c.purpose)
            .order_by(*position.clauses)
            .limit(_PART)
        )
        part = self._connection.execute(query).all()
        while part:
            yield from (tuple(row) for row in part)
            pause()
            part = self._connection.execute(query.where(position > tuple_(*part[-1]))).all()

    # --- either ---

    def _certificates(self, which: Any) -> dict[int, CertificateMark]:
        query: Select[Any] = select(certificates).where(which)
        return {
            row.key_id: CertificateMark(row.not_after, chain_mark(row.chain_pem), row.not_before)
            for row in self._connection.execute(query)
        }

    def _trusted(self, *which: Any) -> dict[str, TrustedCa]:
        rows = self._connection.execute(select(cas).where(*which)).all()
        trusted: dict[str, set[int]] = defaultdict(set)
        query = select(ca_clients).join(cas, cas.c.fingerprint == ca_clients.c.ca_fingerprint).where(*which)
        for row in self._connection.execute(query):
            trusted[row.ca_fingerprint].add(row.client_id)
        return {
            row.fingerprint: TrustedCa(frozenset(trusted[row.fingerprint]), row.max_lifetime_s)
            for row in rows
        }


def _nameless(records: Iterable[LimitedGrantRecord]) -> tuple[LimitedGrantRecord, ...]:
    """The records without names: client or key may be renamed, which is no change of the grant."""
    return tuple(replace(record, client="", key="") for record in records)


def _without_owner_name(key: KeyRecord) -> KeyRecord:
    """The key with the row of its owner only: the owner may be renamed or removed, which is no change of the key."""
    return key if key.owner is None else replace(key, owner=KeyOwner("", row=key.owner.row))


def _numbers(items: Iterable[str]) -> list[int]:
    return sorted(map(int, items))


def _pair(item: str) -> Pair:
    client, _, key = item.partition("/")
    return int(client), int(key)
