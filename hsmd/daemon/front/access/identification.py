"""Which client a peer is: the identity that a public key or a user certificate proves, and whether that proof still holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import MAXYEAR, UTC, datetime

from hsmd.daemon.front.access.certificates import broken_rule
from hsmd.daemon.front.access.credentials import CertificateCredential, KeyCredential
from hsmd.daemon.front.access.identity import NO_END, Identity
from hsmd.daemon.front.access.index import Index
from hsmd.daemon.front.access.rules import Denial, Rule


class Identities:
    """Identifies clients from the contents of the store at one version. Safe to share between threads."""

    __slots__ = ("_cas", "_clients", "_owners", "_revoked", "_rows")

    def __init__(self, index: Index) -> None:
        self._clients, self._rows, self._owners = index.clients, index.rows, index.owners
        self._cas, self._revoked = index.cas, index.revoked

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
        ca, row = self._cas.get(ca_fingerprint), self._rows.get(user_name)
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
        ca = self._cas.get(ca_fingerprint)
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

    def why_invalid(self, identity: Identity, now: datetime) -> Rule | None:
        """The rule because of which an identity counts for nothing now; None if it is valid."""
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
            ca = self._cas.get(credential.ca_fingerprint)
            trusted = ca is not None and row in ca.clients
        else:
            trusted = False
        return None if trusted and identity.roles <= self._clients[row].roles else Rule.WITHDRAWN_CREDENTIAL


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
