"""A small store for access decisions: three front ends, an operator, an auditor, three keys, two CAs."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256

import pytest

from hsmd.algorithms import KeyType
from hsmd.daemon.store.contents import Contents
from hsmd.daemon.store.records import (
    CertificateRecord,
    ClientRecord,
    CredentialRecord,
    GrantRecord,
    KeyRecord,
    LimitedGrantRecord,
    Limits,
    UserCaRecord,
)
from hsmd.protocol.roles import Role
from hsmd.purposes import AllowedNames, Purpose, expand, with_daemon_purposes

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def key(name: str, *purposes: str, key_type: KeyType = KeyType.P256) -> KeyRecord:
    public_key = name.encode()
    ceiling = with_daemon_purposes(expand(purposes))
    return KeyRecord(name, key_type, sha256(public_key).digest(), public_key, ceiling, "main", NOW)


def client(name: str, role: Role, *fingerprints: str) -> ClientRecord:
    credentials = tuple(CredentialRecord(fingerprint, "line") for fingerprint in fingerprints)
    return ClientRecord(name, frozenset({role}), credentials, NOW)


def grant(client_name: str, on: KeyRecord, *purposes: Purpose) -> GrantRecord:
    return GrantRecord(client_name, on.name, on.digest, frozenset(purposes))


SITE, MAIL, OLD = key("site", "tls-server"), key("mail", "tls-server"), key("old", "tls12-rsa-premaster")
WEB1, WEB2, CERTIFIED = (
    client(name, Role.FRONT_END, *prints)
    for name, *prints in (("web1", "F1", "F1b"), ("web2", "F2"), ("web3",))
)
ANN, EVE = client("ann", Role.OPERATOR, "FA"), client("eve", Role.AUDITOR, "FE")


@pytest.fixture
def contents() -> Contents:
    return Contents(
        version=7,
        keys=(MAIL, OLD, SITE),
        certificates=(CertificateRecord("site", "chain", NOW),),
        clients=(ANN, EVE, WEB1, WEB2, CERTIFIED),
        user_cas=(
            UserCaRecord("CA1", "line", frozenset({"web1", "web3", "ann"})),
            UserCaRecord("CA2", "line", frozenset({"web2"})),
        ),
        grants=(
            grant("web1", SITE, Purpose.TLS13_SERVER, Purpose.TLS12_SERVER),
            grant("web2", MAIL, Purpose.TLS13_SERVER),
            grant("web3", SITE, Purpose.TLS13_SERVER),
        ),
    )


@pytest.fixture
def csr_grant() -> LimitedGrantRecord:
    """web1 may request certificates for names below example.com with the key site."""
    limits = Limits(constraints=AllowedNames.of(["*.example.com"]).to_json())
    return LimitedGrantRecord(
        id=5,
        client="web1",
        key="site",
        key_digest=SITE.digest,
        purpose=Purpose.X509_REQUEST,
        limits=limits,
        used=0,
        held=False,
        created_at=NOW,
    )


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def digests() -> dict[str, bytes]:
    return {"site": SITE.digest, "mail": MAIL.digest, "old": OLD.digest, "unknown": b"\xff" * 32}
