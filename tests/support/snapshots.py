"""Snapshots of contents that a test has made up, and that were in no store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.store.contents import CertificateMark, Contents, Difference, Held, Standing, TrustedCa
from hsmd.daemon.store.records import KeyRecord


def snapshot_of(contents: Contents) -> Snapshot:
    """A snapshot of what `Store.load` returned, or of contents that were in no store."""
    return Snapshot.of(_difference(contents))


def _difference(contents: Contents) -> Difference:
    """Contents as a whole difference. Where records have no row ids, because they were in no store, they get some."""
    clients = {each.row or number: each for number, each in enumerate(contents.clients, 1)}
    rows = {client.name: row for row, client in clients.items()}
    keys = {each.row or number: each for number, each in enumerate(contents.keys, 1)}
    key_rows, digests = (
        {getattr(each, name): row for row, each in keys.items()} for name in ("name", "digest")
    )
    grants: dict[tuple[int, int], Held | None] = {}
    for grant in contents.grants:
        if grant.client in rows and grant.key_digest in digests:
            pair = rows[grant.client], digests[grant.key_digest]
            grants[pair] = Held(frozenset(map(int, grant.purposes)))
    for limited in contents.limited_grants:
        if limited.client in rows and limited.key_digest in digests:
            pair = rows[limited.client], digests[limited.key_digest]
            held = grants.get(pair) or Held()
            grants[pair] = Held(held.purposes, (*held.limited, limited))
    return Difference(
        Standing(contents.version),
        whole=True,
        clients=dict(clients.items()),
        keys={row: _of_row(key, row, rows) for row, key in keys.items()},
        certificates={
            key_rows[each.key]: CertificateMark(each.not_after, each.mark, each.not_before)
            for each in contents.certificates
            if each.key in key_rows
        },
        grants=grants,
        user_cas={
            ca.fingerprint: TrustedCa(
                frozenset(rows[name] for name in ca.clients if name in rows), ca.max_lifetime_s
            )
            for ca in contents.user_cas
        },
        revoked=frozenset(each.mark for each in contents.revocations),
        endorsements=contents.statement_endorsements,
    )


def _of_row(key: KeyRecord, row: int, rows: Mapping[str, int]) -> KeyRecord:
    owner = key.owner
    if owner is not None and not owner.row:
        owner = replace(owner, row=0 if owner.removed else rows.get(owner.name, 0))
    return replace(key, row=row, owner=owner)
