"""The snapshot: decides about identities, key operations and control requests from one state of the store's contents."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import MAXYEAR, UTC, datetime

from hsmd.daemon.front.access.certificates import broken_rule
from hsmd.daemon.front.access.credentials import CertificateCredential, KeyCredential
from hsmd.daemon.front.access.grant import Grant
from hsmd.daemon.front.access.identity import NO_END, Identity
from hsmd.daemon.front.access.index import Index, KeyUse, no_pause
from hsmd.daemon.front.access.rules import Denial, Explanation, Rule
from hsmd.daemon.store.records import (
    CertificateMark,
    Contents,
    Difference,
    Held,
    KeyRecord,
    Standing,
    TrustedCa,
)
from hsmd.protocol.messages import Request
from hsmd.protocol.messages.base import FRONT_END
from hsmd.protocol.roles import Role
from hsmd.purposes import GRANTABLE, OF_KEY_OPERATIONS, Purpose

__all__ = ["Grant", "Snapshot"]

_NO_GRANTS: Mapping[KeyUse, Grant] = {}


class Snapshot:
    """Decides from the store's contents at one version. Safe to share between threads.

    It changes in one thing: it learns which limited grants the store refuses (`note_refused`).
    """

    __slots__ = (
        "_by_digest",
        "_by_name",
        "_clients",
        "_grants",
        "_index",
        "_limited",
        "_owners",
        "_revoked",
        "_rows",
    )

    def __init__(self, index: Index) -> None:
        self._index = index
        self._by_digest, self._by_name = index.by_digest, index.by_name
        self._clients, self._rows, self._owners = index.clients, index.rows, index.owners
        self._grants, self._limited, self._revoked = index.grants, index.limited, index.revoked

    @classmethod
    def of(cls, difference: Difference, pause: Callable[[], None] = no_pause) -> Snapshot:
        """The snapshot of a whole `Difference`. For `pause` see Index.updated."""
        return cls(Index(difference.standing)).updated(difference, pause)

    def updated(self, difference: Difference, pause: Callable[[], None] = no_pause) -> Snapshot:
        """The snapshot of the contents that differ from those of this one; what is the same is shared."""
        return Snapshot(self._index.updated(difference, pause))

    @classmethod
    def build(cls, contents: Contents) -> Snapshot:
        """A snapshot of what `Store.load` returned, or of contents that were in no store."""
        return cls.of(_difference(contents))

    @property
    def index(self) -> Index:
        """All that it decides from."""
        return self._index

    @property
    def standing(self) -> Standing:
        """Which state of the store it shows."""
        return self._index.standing

    @property
    def version(self) -> int:
        """The version of the contents."""
        return self._index.standing.version

    @property
    def statement_endorsements(self) -> tuple[str, ...]:
        """Operators' notes about the keys that sign statements, newest last."""
        return self._index.endorsements

    # --- identifying clients ---

    def identify_key(self, user_name: str, fingerprint: str) -> Identity | None:
        """The client that has this public key, if its name is the SSH user name; None otherwise."""
        owner = self._owners.get(fingerprint)
        if owner is None or owner != user_name:
            return None
        marks = frozenset({f"key  {fingerprint}"})
        identity = Identity(
            owner, self._clients[self._rows[owner]].roles, KeyCredential(fingerprint), marks=marks
        )
        return None if self._is_revoked(identity) else identity

    def is_revoked_key(self, fingerprint: str) -> bool:
        """Whether a public key was revoked."""
        return f"key  {fingerprint}" in self._revoked

    def why_not_identified(self, user_name: str, fingerprint: str) -> str:
        """Why `identify_key` finds no client, for the log."""
        if self.is_revoked_key(fingerprint):
            return "the key was revoked"
        if user_name not in self._rows:
            return "there is no client of that name"
        owner = self._owners.get(fingerprint)
        return f"the key is that of the client {owner}" if owner else "the client does not have this key"

    def refuse_ca(self, user_name: str, ca_fingerprint: str) -> Denial | None:
        """Why no certificate of this CA can be this client's, before anything else is read of one; None if it can."""
        ca, row = self._index.cas.get(ca_fingerprint), self._rows.get(user_name)
        if ca is None:
            return Denial(Rule.UNKNOWN_CA)
        if row is None:
            return Denial(Rule.UNKNOWN_CLIENT)
        return None if row in ca.clients else Denial(Rule.CA_NOT_FOR_CLIENT)

    def identify_certificate(
        self,
        user_name: str,
        *,
        ca_fingerprint: str,
        principals: Sequence[str],
        critical_options: Mapping[str, object],
        valid_after: datetime,
        valid_before: datetime,
        serial: int,
        key_id: str,
        key_fingerprint: str,
        peer_address: str,
        now: datetime,
    ) -> Identity | Denial:
        """The client that a user certificate proves. The caller has verified the certificate's signature.

        `key_fingerprint` is that of the certified key. Times are aware UTC; a `valid_before` in the year 9999 means no
        end. The denial is for the log.
        """
        ca = self._index.cas.get(ca_fingerprint)
        if ca is None:
            return Denial(Rule.UNKNOWN_CA)
        rule = broken_rule(
            user_name,
            principals=principals,
            critical_options=critical_options,
            valid_after=valid_after,
            valid_before=valid_before,
            peer_address=peer_address,
            now=now,
        )
        if rule is not None:
            return Denial(rule)
        row = self._rows.get(user_name)
        if row is None:
            return Denial(Rule.UNKNOWN_CLIENT)
        if row not in ca.clients:
            return Denial(Rule.CA_NOT_FOR_CLIENT)
        longest = ca.max_lifetime_s
        if longest and (valid_before - valid_after).total_seconds() > longest:
            return Denial(Rule.LIFETIME_TOO_LONG)
        expires_at = NO_END if valid_before.year == MAXYEAR else valid_before.astimezone(UTC)
        identity = Identity(
            user_name,
            self._clients[row].roles,
            CertificateCredential(serial, ca_fingerprint),
            expires_at,
            _marks(ca_fingerprint, serial, key_id, key_fingerprint),
        )
        return Denial(Rule.REVOKED) if self._is_revoked(identity) else identity

    def knows(self, identity: Identity) -> bool:
        """Whether an identity from an earlier snapshot is still valid: client, roles and credential."""
        return self._withdrawn(identity) is None

    def client_row(self, identity: Identity) -> int | None:
        """The row id of a client in the store, which a namesake would not get; None for one that `knows` not."""
        return self._rows[identity.client] if self.knows(identity) else None

    # --- key operations ---

    def decide(self, identity: Identity, key: bytes, purpose: int, now: datetime) -> Grant | Denial:
        """Decide whether this client may use the key with this digest, now, for the purpose with this code."""
        rule = self._invalid(identity, now)
        if rule is not None:
            return Denial(rule)
        if not identity.roles >= FRONT_END:
            return Denial(Rule.WRONG_ROLE)
        grant = self._grants.get(identity.client, _NO_GRANTS).get((key, purpose))
        if grant is not None:
            return grant
        if purpose not in OF_KEY_OPERATIONS:
            return Denial(
                self._reason(identity.client, self._by_digest.get(key), purpose, now, OF_KEY_OPERATIONS)
            )
        return self._decide_limited(identity.client, self._by_digest.get(key), purpose, now)

    def decide_for_request(
        self, identity: Identity, key_name: str, purpose: Purpose, now: datetime
    ) -> Grant | Denial:
        """Decide whether a control request of this client may use a key for a purpose whose bytes the daemon builds."""
        rule = self._invalid(identity, now)
        if rule is not None:
            return Denial(rule)
        if not identity.roles >= FRONT_END:
            return Denial(Rule.WRONG_ROLE)
        return self._decide_limited(identity.client, self._by_name.get(key_name), purpose, now)

    def explain(self, client: str, key_name: str, purpose: int, now: datetime) -> Explanation:
        """Explain what `decide` or `decide_for_request` would decide for this client with a valid credential.

        The store alone knows how many uses of a limited grant are left.
        """
        if client not in self._rows:
            return Explanation.of(Rule.UNKNOWN_CLIENT)
        if self._has_no_valid_key(client):
            return Explanation.of(Rule.REVOKED)
        key = self._by_name.get(key_name)
        if key is not None and (key.digest, purpose) in self._grants.get(client, _NO_GRANTS):
            return Explanation.of(Rule.GRANTED)
        limited = self._decide_limited(client, key, purpose, now)
        return Explanation.of(limited.rule if isinstance(limited, Denial) else Rule.GRANTED)

    def _has_no_valid_key(self, client: str) -> bool:
        """Whether all keys of a client were revoked, and no CA certifies others for it."""
        row = self._rows[client]
        keys = self._clients[row].credentials
        return (
            bool(keys)
            and all(self.is_revoked_key(key.fingerprint) for key in keys)
            and not any(row in ca.clients for ca in self._index.cas.values())
        )

    def _decide_limited(
        self, client: str, key: KeyRecord | None, purpose: int, now: datetime
    ) -> Grant | Denial:
        grant = None if key is None else self._limited.get(client, _NO_GRANTS).get((key.digest, purpose))
        if grant is None:
            return Denial(self._reason(client, key, purpose, now, GRANTABLE))
        if grant.has_ended(now):
            return Denial(Rule.GRANT_EXPIRED)
        refused = self._index.refused.get(grant.limit or 0)
        return grant if refused is None else Denial(refused)

    def note_refused(self, limit: int, rule: Rule) -> None:
        """The store has refused a use of the limited grant with this id: that holds until the contents change.

        Uses are never given back, and limits change with the version. So whoever has no uses left is refused like a client
        without a grant, and can neither fill the disk nor keep the store busy.
        """
        self._index.refused[limit] = rule

    # --- control requests ---

    def decide_request(self, identity: Identity, request: Request, now: datetime) -> Denial | None:
        """Decide whether this client may make this control request now; None if it may.

        One of the identity's roles must be among the request's `roles`. If the request is about a key and none of these roles
        is among its `any_key`, the key must be one that such a role sees, and granted for the purpose that the request
        `needs`, if it declares one.
        """
        rule = self._invalid(identity, now)
        if rule is not None:
            return Denial(rule)
        if identity.roles.isdisjoint(request.roles):
            return Denial(Rule.WRONG_ROLE)
        roles = identity.roles & request.roles
        if roles & request.any_key or not request.subject.key:
            return None
        key = self._by_name.get(getattr(request, request.subject.key))
        if key is None:
            return Denial(Rule.UNKNOWN_KEY)
        if request.needs is not None and Role.FRONT_END in roles:
            decision = self._decide_limited(identity.client, key, request.needs, now)
            return decision if isinstance(decision, Denial) else None
        return None if self._sees(identity.client, roles, key, now) else Denial(Rule.NO_GRANT)

    def _sees(self, client: str, roles: frozenset[Role], key: KeyRecord, now: datetime) -> bool:
        """Whether a front end has a grant on a key, or an owner owns it."""
        if Role.OWNER in roles and key.digest in self.keys_owned_by(client):
            return True
        return Role.FRONT_END in roles and self._may_use(client, key, now)

    def _may_use(self, client: str, key: KeyRecord, now: datetime) -> bool:
        """Whether there is a grant for any purpose that has not ended."""
        if key.digest in self._index.visible.get(client, ()):
            return True
        limited = self._limited.get(client, _NO_GRANTS)
        found = (limited.get((key.digest, int(purpose))) for purpose in key.purposes)
        return any(grant is not None and not grant.has_ended(now) for grant in found)

    def keys_for(self, identity: Identity, request: type[Request], now: datetime) -> frozenset[bytes] | None:
        """Digests of the keys that this client may name in such a request; None for all, even keys that do not exist.

        A front end may name the keys on which it has a grant, an owner those that it owns.
        """
        roles = identity.roles & request.roles
        if roles & request.any_key:
            return None
        granted = self.keys_of(identity.client, now) if Role.FRONT_END in roles else frozenset[bytes]()
        if Role.OWNER not in roles:
            return granted
        return granted | self.keys_owned_by(identity.client)

    # --- contents ---

    def keys_of(self, client: str, now: datetime) -> frozenset[bytes]:
        """Digests of the keys on which a client has a grant that has not ended."""
        keys = self._index.visible.get(client, frozenset[bytes]())
        limited = self._limited.get(client)
        if limited is None:
            return keys
        return keys | {grant.key for grant in limited.values() if not grant.has_ended(now)}

    def keys_owned_by(self, client: str) -> frozenset[bytes]:
        """Digests of the keys that belong to a client."""
        row = self._rows.get(client)
        return frozenset() if row is None else self._index.owned.get(row, frozenset())

    def certificate_of_key(self, key_name: str) -> CertificateMark | None:
        """The certificate stored for a key; None if there is none."""
        key = self._by_name.get(key_name)
        return None if key is None else self._index.certificates.get(key.row)

    def certificate_not_after(self, key_name: str) -> datetime | None:
        """When the certificate stored for a key ends; None if there is none."""
        key = self._by_name.get(key_name)
        found = None if key is None else self._index.certificates.get(key.row)
        return None if found is None else found.not_after

    def certificate_mark(self, key_name: str) -> str:
        """A text that changes whenever the chain stored for a key changes; empty if there is none."""
        key = self._by_name.get(key_name)
        found = None if key is None else self._index.certificates.get(key.row)
        return "" if found is None else found.mark

    def certificate_of(self, key_row: int) -> tuple[str, CertificateMark] | None:
        """The name of the key with this row id, and its certificate; None if there is none."""
        key, found = self._index.keys.get(key_row), self._index.certificates.get(key_row)
        return None if key is None or found is None else (key.name, found)

    def certificates(self) -> Collection[tuple[int, CertificateMark]]:
        """(row id of the key, certificate) of each certificate."""
        return self._index.certificates.items()

    def digest_of(self, key_name: str) -> str:
        """The digest (hexadecimal) of the key with this name; empty if there is none."""
        record = self._by_name.get(key_name)
        return "" if record is None else record.digest.hex()

    def key_name(self, key: bytes) -> str:
        """The name of the key with this digest; empty if there is none."""
        record = self._by_digest.get(key)
        return "" if record is None else record.name

    def keys_in(self, token: str) -> dict[bytes, str]:
        """Names of the keys that are in this token according to the store, by digest."""
        return {digest: key.name for digest, key in self._by_digest.items() if key.token == token}

    @property
    def checkpoint_keys(self) -> list[KeyRecord]:
        """The keys that sign checkpoints of the audit log; the first one is to be used."""
        return list(self._index.of_daemon.get(Purpose.CHECKPOINT, ()))

    @property
    def statement_keys(self) -> list[KeyRecord]:
        """The keys that sign statements; the newest comes first."""
        return list(self._index.of_daemon.get(Purpose.STATEMENT, ()))

    @property
    def key_count(self) -> int:
        """How many keys there are."""
        return len(self._by_name)

    @property
    def client_count(self) -> int:
        """How many clients there are."""
        return len(self._rows)

    @property
    def grant_count(self) -> int:
        """How many combinations of client, key and purpose are granted."""
        return self._index.grant_count

    def _invalid(self, identity: Identity, now: datetime) -> Rule | None:
        return Rule.EXPIRED_CERTIFICATE if now >= identity.expires_at else self._withdrawn(identity)

    def _is_revoked(self, identity: Identity) -> bool:
        return not self._revoked.isdisjoint(identity.marks)

    def _withdrawn(self, identity: Identity) -> Rule | None:
        if self._is_revoked(identity):
            return Rule.REVOKED
        row = self._rows.get(identity.client)
        if row is None:
            return Rule.UNKNOWN_CLIENT
        credential = identity.credential
        if isinstance(credential, KeyCredential):
            trusted = self._owners.get(credential.fingerprint) == identity.client
        elif isinstance(credential, CertificateCredential):
            ca = self._index.cas.get(credential.ca_fingerprint)
            trusted = ca is not None and row in ca.clients
        else:
            trusted = False
        return None if trusted and identity.roles <= self._clients[row].roles else Rule.WITHDRAWN_CREDENTIAL

    def _reason(
        self, client: str, key: KeyRecord | None, purpose: int, now: datetime, grantable: frozenset[Purpose]
    ) -> Rule:
        """The first rule because of which there is no grant."""
        if Role.FRONT_END not in self._clients[self._rows[client]].roles:
            return Rule.WRONG_ROLE
        if key is None:
            return Rule.UNKNOWN_KEY
        if purpose not in grantable:
            return Rule.PURPOSE_NOT_GRANTABLE
        if purpose not in key.purposes:
            return Rule.PURPOSE_OUTSIDE_CEILING
        return Rule.PURPOSE_NOT_GRANTED if self._may_use(client, key, now) else Rule.NO_GRANT


def _marks(ca_fingerprint: str, serial: int, key_id: str, key_fingerprint: str) -> frozenset[str]:
    """The marks of all revocations that would apply to a certificate, that of its CA's key included."""
    return frozenset(
        {
            f"serial {ca_fingerprint} {serial}",
            f"key-id {ca_fingerprint} {key_id}",
            f"key  {key_fingerprint}",
            f"key  {ca_fingerprint}",
        }
    )


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
