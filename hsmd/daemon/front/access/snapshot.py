"""The snapshot: all that decisions need, read from the store in one transaction and immutable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime

from hsmd.algorithms import KeyType
from hsmd.daemon.front.access.certificates import broken_rule
from hsmd.daemon.front.access.credentials import CertificateCredential, KeyCredential
from hsmd.daemon.front.access.identity import NO_END, Identity
from hsmd.daemon.front.access.rules import Denial, Explanation, Rule
from hsmd.daemon.store.records import Contents, KeyRecord
from hsmd.errors import BadRequest
from hsmd.protocol.messages import Request
from hsmd.protocol.messages.base import FRONT_END
from hsmd.protocol.roles import Role
from hsmd.purposes import GRANTABLE, OF_KEY_OPERATIONS, WITH_ALLOWED_NAMES, AllowedNames, Purpose


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission of one client to use one key for one purpose; key operations are carried out for a grant only."""

    client: str
    key_name: str
    key: bytes
    purpose: int
    token: str
    key_type: KeyType
    cost: float
    """What one use counts when the token is shared fairly among clients (KeyFacts.work)."""
    limit: int | None = None
    """The id of a limited grant, whose uses the store decides about and counts; None without limits."""
    not_after: datetime | None = None
    allowed: AllowedNames | None = None
    """The names for which certificates may be requested."""

    def has_ended(self, now: datetime) -> bool:
        """Whether the time until which it was granted has passed."""
        return self.not_after is not None and self.not_after <= now


class Snapshot:
    """Decides from the store's contents at `version`. Made by `build`; safe to share between threads.

    It changes in one thing: it learns which limited grants the store refuses (`note_refused`).
    """

    __slots__ = (
        "_certificates",
        "_grants",
        "_keys",
        "_keys_by_name",
        "_lifetimes",
        "_limited",
        "_limited_of",
        "_owned",
        "_owners",
        "_refused",
        "_revoked",
        "_roles",
        "_rows",
        "_trusted",
        "_visible",
        "statement_endorsements",
        "version",
    )

    def __init__(self, contents: Contents) -> None:
        self.version = contents.version
        self.statement_endorsements = contents.statement_endorsements
        """Operators' notes about the keys that sign statements, newest last."""
        self._keys = {key.digest: key for key in contents.keys}
        self._keys_by_name = {key.name: key for key in contents.keys}
        self._certificates = {
            each.key: (each.not_after, hash(each.chain_pem)) for each in contents.certificates
        }
        self._roles = {client.name: client.roles for client in contents.clients}
        self._rows = {client.name: client.row for client in contents.clients}
        self._owners = {
            each.fingerprint: client.name for client in contents.clients for each in client.credentials
        }
        self._trusted = {ca.fingerprint: ca.clients & self._roles.keys() for ca in contents.user_cas}
        self._lifetimes = {ca.fingerprint: ca.max_lifetime_s for ca in contents.user_cas}
        self._revoked = frozenset(revocation.mark for revocation in contents.revocations)
        self._grants = _grants(contents, self._keys, self._roles)
        self._limited = _limited(contents, self._keys, self._roles)
        self._refused = {
            each.id: Rule.GRANT_HELD if each.held else Rule.GRANT_EXHAUSTED
            for each in contents.limited_grants
            if each.left == 0
        }
        for limited in self._limited.keys() & self._grants.keys():  # added by a daemon of an earlier release
            del self._grants[limited]
        self._visible = _visible(self._grants)
        self._limited_of: dict[str, list[Grant]] = {}
        for grant in self._limited.values():
            self._limited_of.setdefault(grant.client, []).append(grant)
        self._owned = _owned(contents.keys)

    @classmethod
    def build(cls, contents: Contents) -> Snapshot:
        """A snapshot of what `Store.load` returned."""
        return cls(contents)

    # --- identifying clients ---

    def identify_key(self, user_name: str, fingerprint: str) -> Identity | None:
        """The client that has this public key, if its name is the SSH user name; None otherwise."""
        owner = self._owners.get(fingerprint)
        if owner is None or owner != user_name:
            return None
        marks = frozenset({f"key  {fingerprint}"})
        identity = Identity(owner, self._roles[owner], KeyCredential(fingerprint), marks=marks)
        return None if self._is_revoked(identity) else identity

    def refuse_ca(self, user_name: str, ca_fingerprint: str) -> Denial | None:
        """Why no certificate of this CA can be this client's, before anything else is read of one; None if it can."""
        trusted = self._trusted.get(ca_fingerprint)
        if trusted is None:
            return Denial(Rule.UNKNOWN_CA)
        if user_name not in self._roles:
            return Denial(Rule.UNKNOWN_CLIENT)
        return None if user_name in trusted else Denial(Rule.CA_NOT_FOR_CLIENT)

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
        trusted = self._trusted.get(ca_fingerprint)
        if trusted is None:
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
        if user_name not in self._roles:
            return Denial(Rule.UNKNOWN_CLIENT)
        if user_name not in trusted:
            return Denial(Rule.CA_NOT_FOR_CLIENT)
        longest = self._lifetimes[ca_fingerprint]
        if longest and (valid_before - valid_after).total_seconds() > longest:
            return Denial(Rule.LIFETIME_TOO_LONG)
        expires_at = NO_END if valid_before.year == MAXYEAR else valid_before.astimezone(UTC)
        identity = Identity(
            user_name,
            self._roles[user_name],
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
        grant = self._grants.get((identity.client, key, purpose))
        if grant is not None:
            return grant
        if purpose not in OF_KEY_OPERATIONS:
            return Denial(self._reason(identity.client, self._keys.get(key), purpose, now, OF_KEY_OPERATIONS))
        return self._decide_limited(identity.client, self._keys.get(key), purpose, now)

    def decide_for_request(
        self, identity: Identity, key_name: str, purpose: Purpose, now: datetime
    ) -> Grant | Denial:
        """Decide whether a control request of this client may use a key for a purpose whose bytes the daemon builds."""
        rule = self._invalid(identity, now)
        if rule is not None:
            return Denial(rule)
        if not identity.roles >= FRONT_END:
            return Denial(Rule.WRONG_ROLE)
        return self._decide_limited(identity.client, self._keys_by_name.get(key_name), purpose, now)

    def explain(self, client: str, key_name: str, purpose: int, now: datetime) -> Explanation:
        """Explain what `decide` or `decide_for_request` would decide for this client with a valid credential.

        The store alone knows how many uses of a limited grant are left.
        """
        if client not in self._roles:
            return Explanation.of(Rule.UNKNOWN_CLIENT)
        key = self._keys_by_name.get(key_name)
        if key is not None and (client, key.digest, purpose) in self._grants:
            return Explanation.of(Rule.GRANTED)
        limited = self._decide_limited(client, key, purpose, now)
        return Explanation.of(limited.rule if isinstance(limited, Denial) else Rule.GRANTED)

    def _decide_limited(
        self, client: str, key: KeyRecord | None, purpose: int, now: datetime
    ) -> Grant | Denial:
        grant = None if key is None else self._limited.get((client, key.digest, purpose))
        if grant is None:
            return Denial(self._reason(client, key, purpose, now, GRANTABLE))
        if grant.has_ended(now):
            return Denial(Rule.GRANT_EXPIRED)
        refused = self._refused.get(grant.limit or 0)
        return grant if refused is None else Denial(refused)

    def note_refused(self, limit: int, rule: Rule) -> None:
        """The store has refused a use of the limited grant with this id: that holds until the contents change.

        Uses are never given back, and limits change with the version. So whoever has no uses left is refused like a client
        without a grant, and can neither fill the disk nor keep the store busy.
        """
        self._refused[limit] = rule

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
        visible = self.keys_for(identity, type(request), now)
        if visible is None or not request.subject.key:
            return None
        key = self._keys_by_name.get(getattr(request, request.subject.key))
        if key is None:
            return Denial(Rule.UNKNOWN_KEY)
        if request.needs is not None and Role.FRONT_END in identity.roles & request.roles:
            decision = self._decide_limited(identity.client, key, request.needs, now)
            return decision if isinstance(decision, Denial) else None
        return None if key.digest in visible else Denial(Rule.NO_GRANT)

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
        keys = self._visible.get(client, frozenset[bytes]())
        limited = self._limited_of.get(client)
        if limited is None:
            return keys
        return keys | {grant.key for grant in limited if not grant.has_ended(now)}

    def keys_owned_by(self, client: str) -> frozenset[bytes]:
        """Digests of the keys that belong to a client."""
        return self._owned.get(client, frozenset())

    def certificate_not_after(self, key_name: str) -> datetime | None:
        """When the certificate stored for a key ends; None if there is none."""
        found = self._certificates.get(key_name)
        return None if found is None else found[0]

    def certificates(self) -> Iterator[tuple[str, datetime, int]]:
        """(name of the key, end of its certificate, a number that another chain would not have) of each certificate."""
        return ((key, not_after, mark) for key, (not_after, mark) in self._certificates.items())

    def digest_of(self, key_name: str) -> str:
        """The digest (hexadecimal) of the key with this name; empty if there is none."""
        record = self._keys_by_name.get(key_name)
        return "" if record is None else record.digest.hex()

    def key_name(self, key: bytes) -> str:
        """The name of the key with this digest; empty if there is none."""
        record = self._keys.get(key)
        return "" if record is None else record.name

    def keys_in(self, token: str) -> dict[bytes, str]:
        """Names of the keys that are in this token according to the store, by digest."""
        return {digest: key.name for digest, key in self._keys.items() if key.token == token}

    @property
    def checkpoint_keys(self) -> list[KeyRecord]:
        """The keys that sign checkpoints of the audit log; the first one is to be used."""
        return self._newest_of(Purpose.CHECKPOINT)

    @property
    def statement_keys(self) -> list[KeyRecord]:
        """The keys that sign statements; the newest comes first."""
        return self._newest_of(Purpose.STATEMENT)

    def _newest_of(self, purpose: Purpose) -> list[KeyRecord]:
        found = [key for key in self._keys.values() if purpose in key.purposes]
        return sorted(found, key=lambda key: (key.created_at, key.name), reverse=True)

    @property
    def key_count(self) -> int:
        """How many keys there are."""
        return len(self._keys)

    @property
    def client_count(self) -> int:
        """How many clients there are."""
        return len(self._roles)

    @property
    def grant_count(self) -> int:
        """How many combinations of client, key and purpose are granted."""
        return len(self._grants) + len(self._limited)

    def _invalid(self, identity: Identity, now: datetime) -> Rule | None:
        return Rule.EXPIRED_CERTIFICATE if now >= identity.expires_at else self._withdrawn(identity)

    def _is_revoked(self, identity: Identity) -> bool:
        return not self._revoked.isdisjoint(identity.marks)

    def _withdrawn(self, identity: Identity) -> Rule | None:
        if self._is_revoked(identity):
            return Rule.REVOKED
        roles = self._roles.get(identity.client)
        if roles is None:
            return Rule.UNKNOWN_CLIENT
        credential = identity.credential
        if isinstance(credential, KeyCredential):
            trusted = self._owners.get(credential.fingerprint) == identity.client
        elif isinstance(credential, CertificateCredential):
            trusted = identity.client in self._trusted.get(credential.ca_fingerprint, ())
        else:
            trusted = False
        return None if trusted and identity.roles <= roles else Rule.WITHDRAWN_CREDENTIAL

    def _reason(
        self, client: str, key: KeyRecord | None, purpose: int, now: datetime, grantable: frozenset[Purpose]
    ) -> Rule:
        """The first rule because of which there is no grant."""
        if Role.FRONT_END not in self._roles[client]:
            return Rule.WRONG_ROLE
        if key is None:
            return Rule.UNKNOWN_KEY
        if purpose not in grantable:
            return Rule.PURPOSE_NOT_GRANTABLE
        if purpose not in key.purposes:
            return Rule.PURPOSE_OUTSIDE_CEILING
        return Rule.PURPOSE_NOT_GRANTED if key.digest in self.keys_of(client, now) else Rule.NO_GRANT


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


def _grants(
    contents: Contents, keys: Mapping[bytes, KeyRecord], roles: Mapping[str, frozenset[Role]]
) -> dict[tuple[str, bytes, int], Grant]:
    grants: dict[tuple[str, bytes, int], Grant] = {}
    for record in contents.grants:
        key = keys.get(record.key_digest)
        if key is None or Role.FRONT_END not in roles.get(record.client, ()):
            continue
        for purpose in map(int, record.purposes & key.purposes & OF_KEY_OPERATIONS):
            grant = Grant(
                record.client, key.name, key.digest, purpose, key.token, key.key_type, key.key_type.facts.work
            )
            grants[(record.client, key.digest, purpose)] = grant
    return grants


def _limited(
    contents: Contents, keys: Mapping[bytes, KeyRecord], roles: Mapping[str, frozenset[Role]]
) -> dict[tuple[str, bytes, int], Grant]:
    """Limited grants in the same way, without those whose constraints this release does not know."""
    grants: dict[tuple[str, bytes, int], Grant] = {}
    for record in contents.limited_grants:
        key = keys.get(record.key_digest)
        if key is None or Role.FRONT_END not in roles.get(record.client, ()):
            continue
        if record.purpose not in key.purposes & GRANTABLE:
            continue
        try:
            allowed = AllowedNames.parse(record.limits.constraints) if record.limits.constraints else None
        except BadRequest:
            continue
        if (allowed is not None) != (record.purpose in WITH_ALLOWED_NAMES):
            continue
        grants[(record.client, key.digest, int(record.purpose))] = Grant(
            client=record.client,
            key_name=key.name,
            key=key.digest,
            purpose=int(record.purpose),
            token=key.token,
            key_type=key.key_type,
            cost=key.key_type.facts.work,
            limit=record.id,
            not_after=record.limits.not_after,
            allowed=allowed,
        )
    return grants


def _visible(grants: Mapping[tuple[str, bytes, int], Grant]) -> dict[str, frozenset[bytes]]:
    digests: dict[str, set[bytes]] = {}
    for client, digest, _ in grants:
        digests.setdefault(client, set()).add(digest)
    return {client: frozenset(found) for client, found in digests.items()}


def _owned(keys: Sequence[KeyRecord]) -> dict[str, frozenset[bytes]]:
    digests: dict[str, set[bytes]] = {}
    for key in keys:
        if key.owner is not None and not key.owner.removed:
            digests.setdefault(key.owner.name, set()).add(key.digest)
    return {client: frozenset(found) for client, found in digests.items()}
