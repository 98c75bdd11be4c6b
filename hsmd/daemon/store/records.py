"""What the store hands over its border: frozen records, and the check of names."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from hsmd.algorithms import KeyType
from hsmd.errors import BadRequest
from hsmd.protocol.messages import Name
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key of the catalogue.

    `digest` is the SHA-256 (32 bytes) of `public_key` (DER SubjectPublicKeyInfo); `purposes` the ceiling, for
    ever; `created_at` aware UTC; `warnings` what was unsafe about an adopted key.
    """

    name: str
    key_type: KeyType
    digest: bytes
    public_key: bytes
    purposes: frozenset[Purpose]
    token: str
    created_at: datetime
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """The chain (PEM, leaf first) stored for a key; `not_after` is the leaf's."""

    key: str
    chain_pem: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class CredentialRecord:
    """A public key a client may come with: SHA-256 fingerprint as OpenSSH prints it, and OpenSSH line."""

    fingerprint: str
    public_key: str


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """A client; without credentials (in the order of fingerprints) it comes with certificates only."""

    name: str
    role: Role
    credentials: tuple[CredentialRecord, ...]
    created_at: datetime


DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class CaRecord:
    """An OpenSSH CA key whose user certificates are accepted for the clients named, and for nobody else.

    `max_lifetime_s` is the longest time one of its certificates may be valid in all; 0 for any.
    """

    fingerprint: str
    public_key: str
    clients: frozenset[str]
    max_lifetime_s: int = DAY_S


@dataclass(frozen=True, slots=True)
class RevocationRecord:
    """A credential that is refused whoever vouches for it.

    `kind` is `key` (value: fingerprint of a public key, certified or not, or of a CA), or `serial` or `key-id` of
    certificates of the CA with `ca_fingerprint` (empty for keys).
    """

    kind: str
    ca_fingerprint: str
    value: str
    created_at: datetime

    @property
    def mark(self) -> str:
        """What an identity that this revokes has among its marks."""
        return f"{self.kind} {self.ca_fingerprint} {self.value}"


@dataclass(frozen=True, slots=True)
class EnrolmentRecord:
    """A one-time token as the store knows it: by its id and the SHA-256 of its secret; `expires_at` aware UTC."""

    id: str
    client: str
    secret_sha256: bytes
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class GrantRecord:
    """One client may use one key for these purposes."""

    client: str
    key: str
    key_digest: bytes
    purposes: frozenset[Purpose]


@dataclass(frozen=True, slots=True)
class LoginStop:
    """No daemon of the fleet logs in to this token until an operator clears it. `token` is its name in hsmd.toml."""

    token: str
    at: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoginClaim:
    """Whether a daemon may log in to a token now, and no other daemon meanwhile; if logins are stopped, why.

    `cleared`: an operator has cleared a stop; this one login may be tried although the token's flags warn.
    """

    granted: bool
    cleared: bool = False
    stop: LoginStop | None = None


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    """A client that may read all records about a key."""

    key: str
    key_digest: bytes
    client: str


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The newest checkpoint known of the log `origin`: its size, root (32 bytes) and verifier key."""

    origin: str
    size: int
    root: bytes
    key: str


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that decisions and the catalogue need, from one consistent read, and `version` then."""

    version: int
    keys: tuple[KeyRecord, ...] = ()
    certificates: tuple[CertificateRecord, ...] = ()
    clients: tuple[ClientRecord, ...] = ()
    cas: tuple[CaRecord, ...] = ()
    grants: tuple[GrantRecord, ...] = ()
    revocations: tuple[RevocationRecord, ...] = ()
    owners: tuple[OwnerRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list; `more` says that there are further ones after the last of `items`."""

    items: tuple[T, ...]
    more: bool


def is_name(text: str) -> bool:
    """Whether a text can be the name of a key or client (`messages.Name`, the contract of the wire)."""
    try:
        msgspec.convert(text, Name)
    except msgspec.ValidationError:
        return False
    return True


def check_name(field: str, text: str) -> None:
    """Raises BadRequest naming the field unless the text can be a name."""
    if not is_name(text):
        raise BadRequest(f"{field}: a name is 1 to 64 of a-z A-Z 0-9 . _ - and starts with a letter or digit")
