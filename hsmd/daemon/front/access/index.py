"""The contents of the store as maps in which decisions look up, and how a difference makes the next ones.

The maps of an index never change, so one index is one consistent state. `updated` copies those that a difference concerns: the
small ones, and those of the clients concerned; what is in them is shared with the index before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hsmd.daemon.front.access.grant import Grant, grant_of, limited_grant_of
from hsmd.daemon.front.access.rules import Rule
from hsmd.daemon.store.contents import CertificateMark, Difference, Held, Standing, TrustedCa
from hsmd.daemon.store.records import ClientRecord, KeyRecord
from hsmd.protocol.roles import Role
from hsmd.purposes import OF_KEY_OPERATIONS, Purpose

K = TypeVar("K")
V = TypeVar("V")

KeyUse = tuple[bytes, int]
"""The digest of a key, and the code of a purpose."""
OF_THE_DAEMON = (Purpose.CHECKPOINT, Purpose.STATEMENT)
"""Purposes whose keys the daemon looks for among all keys."""


def no_pause() -> None:
    """For a thread that need not let others run."""


@dataclass(frozen=True, slots=True)
class Index:
    """Maps of the contents at `standing`. Clients and keys have their row ids where it says row."""

    standing: Standing
    # clients
    clients: Mapping[int, ClientRecord] = field(default_factory=dict)
    """By row."""
    rows: Mapping[str, int] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)
    """The names of clients by the fingerprints of their public keys."""
    cas: Mapping[str, TrustedCa] = field(default_factory=dict)
    revoked: frozenset[str] = frozenset()
    # keys
    keys: Mapping[int, KeyRecord] = field(default_factory=dict)
    """By row."""
    by_digest: Mapping[bytes, KeyRecord] = field(default_factory=dict)
    by_name: Mapping[str, KeyRecord] = field(default_factory=dict)
    owned: Mapping[int, frozenset[bytes]] = field(default_factory=dict)
    """The digests of the keys that belong to a client, by its row."""
    of_daemon: Mapping[Purpose, tuple[KeyRecord, ...]] = field(default_factory=dict)
    """The keys for each of `OF_THE_DAEMON`, the newest first."""
    certificates: Mapping[int, CertificateMark] = field(default_factory=dict)
    """By the row of the key."""
    endorsements: tuple[str, ...] = ()
    # grants
    held: Mapping[int, Mapping[int, Held]] = field(default_factory=dict)
    """What stands in the store, by the rows of client and key; the rest is made of it."""
    holders: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """The rows of the clients in `held`, by the row of the key."""
    grants: Mapping[str, Mapping[KeyUse, Grant]] = field(default_factory=dict)
    """Without limits, by the name of the client."""
    limited: Mapping[str, Mapping[KeyUse, Grant]] = field(default_factory=dict)
    visible: Mapping[str, frozenset[bytes]] = field(default_factory=dict)
    """The digests of the keys in `grants`, by the name of the client."""
    grant_count: int = 0
    refused: dict[int, Rule] = field(default_factory=dict, compare=False)
    """Limited grants, by their ids, of which no use is left. It changes: the store tells when a use is wanted."""

    def updated(self, difference: Difference, pause: Callable[[], None] = no_pause) -> Index:
        """The index of the contents that differ from these by `difference`.

        `pause` is called after each step of about a millisecond at most, unless one client or key has thousands of grants.
        """
        base = Index(difference.standing) if difference.whole else self
        return _Update(base, difference, pause).index()


class _Update:
    """The maps of the next index while they are made: those of `base`, copied where they change."""

    def __init__(self, base: Index, difference: Difference, pause: Callable[[], None]) -> None:
        self._base = base
        self._difference = difference
        self._pause = pause
        self._changed_clients: set[int] = set()
        """Rows of clients all of whose grants are made again."""
        self._changed_pairs: dict[int, set[int]] = {}
        """By the row of the client, rows of keys whose grants are made again."""

    def index(self) -> Index:
        base, new = self._base, self._difference
        self.clients, self.rows, self.owners = base.clients, base.rows, base.owners
        self.keys, self.by_digest, self.by_name = base.keys, base.by_digest, base.by_name
        self.owned, self.of_daemon = base.owned, base.of_daemon
        self.held, self.holders = base.held, base.holders
        self.grants, self.limited, self.visible = dict(base.grants), dict(base.limited), dict(base.visible)
        self.count, self.refused = base.grant_count, dict(base.refused)
        if new.clients:
            self._update_clients()
        if new.keys:
            self._update_keys()
        if new.grants:
            self._update_held()
        if self._changed_clients or self._changed_pairs:
            self._update_grants()
        return Index(
            standing=new.standing,
            clients=self.clients,
            rows=self.rows,
            owners=self.owners,
            cas=_merged(base.cas, new.user_cas),
            revoked=base.revoked | new.revoked if new.revoked - base.revoked else base.revoked,
            keys=self.keys,
            by_digest=self.by_digest,
            by_name=self.by_name,
            owned=self.owned,
            of_daemon=self.of_daemon,
            certificates=_merged(base.certificates, new.certificates),
            endorsements=base.endorsements if new.endorsements is None else new.endorsements,
            held=self.held,
            holders=self.holders,
            grants=self.grants,
            limited=self.limited,
            visible=self.visible,
            grant_count=self.count,
            refused=self.refused,
        )

    # --- clients ---

    def _update_clients(self) -> None:
        """Names and keys may have gone from one client to another: remove all old ones, then add the new ones."""
        base, found = self._base, self._difference.clients
        rows, owners = dict(self.rows), dict(self.owners)
        for row in found:
            old = base.clients.get(row)
            if old is not None:
                rows.pop(old.name, None)
                for credential in old.credentials:
                    owners.pop(credential.fingerprint, None)
        for row, client in found.items():
            if client is not None:
                rows[client.name] = row
                for credential in client.credentials:
                    owners[credential.fingerprint] = client.name
            old = base.clients.get(row)
            if client is None or old is None or (old.name, old.roles) != (client.name, client.roles):
                self._changed_clients.add(row)
            self._pause()
        self.clients, self.rows, self.owners = _merged(self.clients, found), rows, owners

    # --- keys ---

    def _update_keys(self) -> None:
        base, found = self._base, self._difference.keys
        by_digest, by_name = dict(self.by_digest), dict(self.by_name)
        owned: _Sets[bytes] = _Sets(self.owned)
        for row in found:
            old = base.keys.get(row)
            if old is not None:
                by_digest.pop(old.digest, None)
                by_name.pop(old.name, None)
                if old.owner is not None:
                    owned.discard(old.owner.row, old.digest)
        for row, key in found.items():
            if key is not None:
                by_digest[key.digest] = by_name[key.name] = key
                if key.owner is not None:
                    owned.add(key.owner.row, key.digest)
            for client in base.holders.get(row, ()):
                self._changed_pairs.setdefault(client, set()).add(row)
            self._pause()
        self.keys, self.by_digest, self.by_name = _merged(self.keys, found), by_digest, by_name
        self.owned = owned.sets()
        self._update_keys_of_daemon()

    def _update_keys_of_daemon(self) -> None:
        found = self._difference.keys
        of_daemon: dict[Purpose, tuple[KeyRecord, ...]] = {}
        for purpose in OF_THE_DAEMON:
            kept = [key for key in self.of_daemon.get(purpose, ()) if key.row not in found]
            new = [key for key in found.values() if key is not None and purpose in key.purposes]
            newest_first = sorted([*kept, *new], key=lambda key: (key.created_at, key.name), reverse=True)
            _put(of_daemon, purpose, tuple(newest_first))
        self.of_daemon = of_daemon

    # --- grants ---

    def _update_held(self) -> None:
        changed: dict[int, dict[int, Held | None]] = {}
        holders: _Sets[int] = _Sets(self.holders)
        for (client, key), held in self._difference.grants.items():
            changed.setdefault(client, {})[key] = held
            if held is None:
                holders.discard(key, client)
            else:
                holders.add(key, client)
            self._changed_pairs.setdefault(client, set()).add(key)
            self._pause()
        rows = dict(self.held)
        for client, keys in changed.items():
            rows[client] = _merged(rows.get(client, {}), keys)
            if not rows[client]:
                del rows[client]
            self._pause()
        self.held, self.holders = rows, holders.sets()

    def _update_grants(self) -> None:
        for client in self._changed_clients:
            self._forget(client)
        for client in self._changed_clients:
            self._changed_pairs[client] = {*self.held.get(client, ()), *self._changed_pairs.get(client, ())}
        for client, keys in self._changed_pairs.items():
            self._update_grants_of(client, keys)
            self._pause()

    def _forget(self, client: int) -> None:
        """Remove all grants of a client under its old name."""
        old = self._base.clients.get(client)
        if old is None:
            return
        self.count -= len(self.grants.pop(old.name, ())) + len(self.limited.pop(old.name, ()))
        self.visible.pop(old.name, None)

    def _update_grants_of(self, client: int, keys: Iterable[int]) -> None:
        """Make the grants of a client on these keys again; a key may have come back under another row."""
        old, new = self._base.held.get(client, {}), self.held.get(client, {})
        for row in keys:
            self._note_refusals(old.get(row), new.get(row))
        record = self.clients.get(client)
        if record is None or Role.FRONT_END not in record.roles:
            return
        name = record.name
        grants = dict(self.grants.get(name, {}))
        limited = dict(self.limited.get(name, {}))
        self.count -= len(grants) + len(limited)
        visible = set(self.visible.get(name, ()))
        for row in keys:
            self._remove(self._base.keys.get(row), grants, limited, visible)
        for row in keys:
            key, held = self.keys.get(row), new.get(row)
            if key is not None and held is not None:
                _add(name, key, held, grants, limited)
                if any((key.digest, code) in grants for code in held.purposes):
                    visible.add(key.digest)
                self._pause()
        self.count += len(grants) + len(limited)
        _put(self.grants, name, grants)
        _put(self.limited, name, limited)
        _put(self.visible, name, frozenset(visible))

    def _remove(
        self,
        key: KeyRecord | None,
        grants: dict[KeyUse, Grant],
        limited: dict[KeyUse, Grant],
        visible: set[bytes],
    ) -> None:
        if key is None:
            return
        for purpose in map(int, key.purposes):
            grants.pop((key.digest, purpose), None)
            limited.pop((key.digest, purpose), None)
        visible.discard(key.digest)

    def _note_refusals(self, old: Held | None, new: Held | None) -> None:
        for record in old.limited if old else ():
            self.refused.pop(record.id, None)
        for record in new.limited if new else ():
            if record.left == 0:
                self.refused[record.id] = Rule.GRANT_HELD if record.held else Rule.GRANT_EXHAUSTED


def _add(
    client: str,
    key: KeyRecord,
    held: Held,
    grants: dict[KeyUse, Grant],
    limited: dict[KeyUse, Grant],
) -> None:
    """The grants of a client on a key; a daemon of an earlier release may have added one without limits beside a limited one."""
    for record in held.limited:
        grant = limited_grant_of(client, key, record)
        if grant is not None:
            limited[key.digest, grant.purpose] = grant
    for code in held.purposes:
        use = (key.digest, code)
        if code in key.purposes & OF_KEY_OPERATIONS and use not in limited:
            grants[use] = grant_of(client, key, code)


class _Sets(Generic[V]):
    """A map of sets while it is changed; each set is copied once."""

    def __init__(self, base: Mapping[int, frozenset[V]]) -> None:
        self._base = base
        self._changed: dict[int, set[V]] = {}

    def add(self, of: int, member: V) -> None:
        self._mutable(of).add(member)

    def discard(self, of: int, member: V) -> None:
        self._mutable(of).discard(member)

    def _mutable(self, of: int) -> set[V]:
        if of not in self._changed:
            self._changed[of] = set(self._base.get(of, ()))
        return self._changed[of]

    def sets(self) -> dict[int, frozenset[V]]:
        """All sets that are not empty."""
        merged = dict(self._base)
        for of, members in self._changed.items():
            _put(merged, of, frozenset(members))
        return merged


def _merged(base: Mapping[K, V], changed: Mapping[K, V | None]) -> Mapping[K, V]:
    """`base` with what has changed; None: removed."""
    if not changed:
        return base
    merged = dict(base)
    for key, value in changed.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def _put(target: dict[K, V], key: K, value: V) -> None:
    """Keep a collection unless it is empty."""
    if value:
        target[key] = value
    else:
        target.pop(key, None)
