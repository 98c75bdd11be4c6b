"""The snapshot: decides about key operations and control requests from one state of the store's contents, and shows it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from hsmd.daemon.front.access.grant import Grant
from hsmd.daemon.front.access.identification import Identities
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.index import Index, KeyUse, no_pause
from hsmd.daemon.front.access.rules import Denial, Explanation, Rule
from hsmd.daemon.store.contents import CertificateMark, Difference, Standing
from hsmd.daemon.store.records import KeyRecord
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
        "_rows",
        "identities",
    )

    def __init__(self, index: Index) -> None:
        self._index = index
        self._by_digest, self._by_name = index.by_digest, index.by_name
        self._clients, self._rows = index.clients, index.rows
        self._grants, self._limited = index.grants, index.limited
        self.identities = Identities(index)

    @classmethod
    def of(cls, difference: Difference, pause: Callable[[], None] = no_pause) -> Snapshot:
        """The snapshot of a whole `Difference`. For `pause` see Index.updated."""
        return cls(Index(difference.standing)).updated(difference, pause)

    def updated(self, difference: Difference, pause: Callable[[], None] = no_pause) -> Snapshot:
        """The snapshot of the contents that differ from those of this one; what is the same is shared."""
        return Snapshot(self._index.updated(difference, pause))

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

    # --- key operations ---

    def decide(self, identity: Identity, key: bytes, purpose: int, now: datetime) -> Grant | Denial:
        """Decide whether this client may use the key with this digest, now, for the purpose with this code."""
        rule = self.identities.why_invalid(identity, now)
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
        rule = self.identities.why_invalid(identity, now)
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
            and all(self.identities.is_revoked_key(key.fingerprint) for key in keys)
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
        rule = self.identities.why_invalid(identity, now)
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

    def key_with(self, digest: bytes) -> KeyRecord | None:
        """The key with this digest; None if there is none."""
        return self._by_digest.get(digest)

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
