"""Identities: which public keys and OpenSSH user certificates are accepted."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from hsmd.daemon.front.access import Denial, Explanation, Identity, Rule, Snapshot
from hsmd.daemon.front.access.credentials import CertificateCredential, KeyCredential
from hsmd.daemon.front.access.identity import NO_END
from hsmd.daemon.store.contents import Contents
from hsmd.daemon.store.records import RevocationRecord
from hsmd.protocol.roles import Role
from tests.support.snapshots import snapshot_of

HOUR = timedelta(hours=1)
CYRILLIC_E = "w\u0435b1"
FULLWIDTH_ONE = "web\uff11"


@pytest.fixture
def snapshot(contents: Contents) -> Snapshot:
    return snapshot_of(contents)


@pytest.fixture
def good(now: datetime) -> dict[str, Any]:
    """A certificate that is valid for web1."""
    return {
        "user_name": "web1",
        "ca_fingerprint": "CA1",
        "principals": ["web1"],
        "critical_options": {},
        "valid_after": now - HOUR,
        "valid_before": now + HOUR,
        "serial": 42,
        "key_id": "laptop",
        "key_fingerprint": "K1",
        "peer_address": "192.0.2.7",
        "now": now,
    }


def identify(snapshot: Snapshot, certificate: dict[str, Any], **changes: Any) -> Identity | Denial:
    arguments = certificate | changes
    return snapshot.identities.identify_certificate(arguments.pop("user_name"), **arguments)


def any_lifetime(contents: Contents) -> Contents:
    return replace(contents, user_cas=tuple(replace(ca, max_lifetime_s=0) for ca in contents.user_cas))


# --- public keys ---


@pytest.mark.parametrize(
    ("user", "fingerprint", "role"),
    [
        ("web1", "F1", Role.FRONT_END),
        ("web1", "F1b", Role.FRONT_END),
        ("ann", "FA", Role.OPERATOR),
        ("eve", "FE", Role.AUDITOR),
    ],
)
def test_a_key_identifies_its_client(snapshot: Snapshot, user: str, fingerprint: str, role: Role) -> None:
    assert snapshot.identities.identify_key(user, fingerprint) == Identity(
        user, frozenset({role}), KeyCredential(fingerprint)
    )


@pytest.mark.parametrize(
    ("user", "fingerprint"),
    [
        ("web2", "F1"),
        ("ann", "F1"),
        ("web1", "F2"),
        ("web1", "FA"),
        ("missing", "F1"),
        ("", "F1"),
        ("web1", ""),
        ("web1", "unknown"),
        ("WEB1", "F1"),
        ("Web1", "F1"),
        ("web1 ", "F1"),
        ("web1\x00", "F1"),
        (CYRILLIC_E, "F1"),
        (FULLWIDTH_ONE, "F1"),
        ("web1", "CA1"),
        ("web1", "f1"),
        ("*", "F1"),
        ("web3", "F1"),
    ],
)
def test_a_key_identifies_no_other_client(snapshot: Snapshot, user: str, fingerprint: str) -> None:
    assert snapshot.identities.identify_key(user, fingerprint) is None


# --- certificates ---


def test_a_good_certificate_identifies_its_principal(
    snapshot: Snapshot, good: dict[str, Any], now: datetime
) -> None:
    assert identify(snapshot, good) == Identity(
        "web1", frozenset({Role.FRONT_END}), CertificateCredential(42, "CA1"), now + HOUR
    )
    certified = identify(snapshot, good, user_name="web3", principals=("web3",))
    assert certified == Identity(
        "web3", frozenset({Role.FRONT_END}), CertificateCredential(42, "CA1"), now + HOUR
    )


def test_a_certificate_without_an_end_gives_an_identity_without_an_end(
    contents: Contents, good: dict[str, Any]
) -> None:
    snapshot = snapshot_of(any_lifetime(contents))
    endless = identify(snapshot, good, valid_before=datetime.max.replace(tzinfo=UTC))
    assert endless == Identity("web1", frozenset({Role.FRONT_END}), CertificateCredential(42, "CA1"), NO_END)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"principals": []}, Rule.NOT_ONE_PRINCIPAL),
        ({"principals": [""]}, Rule.NOT_ONE_PRINCIPAL),
        ({"principals": [""], "user_name": ""}, Rule.NOT_ONE_PRINCIPAL),
        ({"principals": ["web1", "web2"]}, Rule.NOT_ONE_PRINCIPAL),
        ({"principals": ["web1", "web1"]}, Rule.NOT_ONE_PRINCIPAL),
        ({"principals": ["web2"]}, Rule.PRINCIPAL_MISMATCH),
        ({"principals": ["*"]}, Rule.PRINCIPAL_MISMATCH),
        ({"principals": ["web*"]}, Rule.PRINCIPAL_MISMATCH),
        ({"principals": ["WEB1"]}, Rule.PRINCIPAL_MISMATCH),
        ({"principals": ["web1 "]}, Rule.PRINCIPAL_MISMATCH),
        ({"principals": ["web1\x00"]}, Rule.PRINCIPAL_MISMATCH),
        ({"principals": [CYRILLIC_E]}, Rule.PRINCIPAL_MISMATCH),
        ({"principals": [FULLWIDTH_ONE]}, Rule.PRINCIPAL_MISMATCH),
        ({"principals": ["web1,web2"]}, Rule.PRINCIPAL_MISMATCH),
        ({"user_name": "web2"}, Rule.PRINCIPAL_MISMATCH),
        ({"user_name": "WEB1"}, Rule.PRINCIPAL_MISMATCH),
        ({"user_name": "WEB1", "principals": ["WEB1"]}, Rule.UNKNOWN_CLIENT),
        ({"user_name": CYRILLIC_E, "principals": [CYRILLIC_E]}, Rule.UNKNOWN_CLIENT),
        ({"user_name": FULLWIDTH_ONE, "principals": [FULLWIDTH_ONE]}, Rule.UNKNOWN_CLIENT),
        ({"user_name": "missing", "principals": ["missing"]}, Rule.UNKNOWN_CLIENT),
        ({"user_name": "web2", "principals": ["web2"]}, Rule.CA_NOT_FOR_CLIENT),
        ({"user_name": "eve", "principals": ["eve"]}, Rule.CA_NOT_FOR_CLIENT),
        ({"ca_fingerprint": "CA2"}, Rule.CA_NOT_FOR_CLIENT),
        ({"ca_fingerprint": "CA3"}, Rule.UNKNOWN_CA),
        ({"ca_fingerprint": "F1"}, Rule.UNKNOWN_CA),
        ({"ca_fingerprint": ""}, Rule.UNKNOWN_CA),
        ({"critical_options": {"force-command": "hsmd"}}, Rule.UNKNOWN_CRITICAL_OPTION),
        ({"critical_options": {"verify-required": ""}}, Rule.UNKNOWN_CRITICAL_OPTION),
        ({"critical_options": {"source-address": "192.0.2.0/24", "x@y": ""}}, Rule.UNKNOWN_CRITICAL_OPTION),
        ({"critical_options": {"Source-Address": "192.0.2.0/24"}}, Rule.UNKNOWN_CRITICAL_OPTION),
    ],
)
def test_a_bad_certificate_identifies_no_client(
    snapshot: Snapshot, good: dict[str, Any], changes: dict[str, Any], rule: Rule
) -> None:
    assert identify(snapshot, good, **changes) == Denial(rule)


def test_a_certificate_is_valid_from_its_first_second_and_before_its_last(
    snapshot: Snapshot, good: dict[str, Any], now: datetime
) -> None:
    second = timedelta(seconds=1)
    assert isinstance(identify(snapshot, good, now=now - HOUR), Identity)
    assert isinstance(identify(snapshot, good, now=now + HOUR - second), Identity)
    assert identify(snapshot, good, now=now - HOUR - second) == Denial(Rule.CERTIFICATE_NOT_YET_VALID)
    assert identify(snapshot, good, now=now + HOUR) == Denial(Rule.EXPIRED_CERTIFICATE)


@pytest.mark.parametrize(
    ("option", "address", "allowed"),
    [
        ("192.0.2.0/24", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.7", True),
        ("198.51.100.0/24,192.0.2.0/29", "192.0.2.7", True),
        ([ip_network("192.0.2.0/24")], "192.0.2.7", True),
        ("2001:db8::/32", "2001:db8::7", True),
        ("192.0.2.0/24", "::ffff:192.0.2.7", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("192.0.2.0/29", "192.0.2.8", False),
        ("2001:db8::/32", "192.0.2.7", False),
        ("0.0.0.0/0", "2001:db8::7", False),
        ("", "192.0.2.7", False),
        ([], "192.0.2.7", False),
        ("192.0.2.7/24", "192.0.2.7", False),  # host bits set: the intended network is unknown
        ("192.0.2.0/24,nonsense", "192.0.2.7", False),
        ("192.0.2.0/24", "", False),
        ("192.0.2.0/24", "a front end", False),
        (True, "192.0.2.7", False),
    ],
)
def test_a_source_address_option_is_enforced(
    snapshot: Snapshot, good: dict[str, Any], option: object, address: str, allowed: bool
) -> None:
    decision = identify(snapshot, good, critical_options={"source-address": option}, peer_address=address)
    assert isinstance(decision, Identity) is allowed
    if not allowed:
        assert decision == Denial(Rule.SOURCE_ADDRESS)


# --- identities of connections that are open while the store changes ---


def test_an_identity_is_valid_while_its_credential_is(
    contents: Contents, good: dict[str, Any], now: datetime
) -> None:
    before = snapshot_of(contents)
    by_key, by_certificate = before.identities.identify_key("web1", "F1"), identify(before, good)
    assert isinstance(by_key, Identity)
    assert isinstance(by_certificate, Identity)

    def still_valid(identity: Identity, **changes: Any) -> bool:
        return snapshot_of(replace(contents, **changes)).identities.knows(identity)

    others = tuple(client for client in contents.clients if client.name != "web1")
    web1 = next(client for client in contents.clients if client.name == "web1")
    assert still_valid(by_key)
    assert still_valid(by_key, user_cas=())
    assert still_valid(by_certificate)
    assert not still_valid(by_key, clients=others)
    assert not still_valid(by_certificate, clients=others)
    assert not still_valid(by_certificate, user_cas=())
    # the name exists again, with another credential or another role
    assert not still_valid(by_key, clients=(*others, replace(web1, credentials=web1.credentials[1:])))
    assert still_valid(by_certificate, clients=(*others, replace(web1, credentials=())))
    for identity in (by_key, by_certificate):
        assert not still_valid(identity, clients=(*others, replace(web1, roles=frozenset({Role.OPERATOR}))))
    # another client has the key now
    thief = replace(web1, name="web9")
    assert not still_valid(by_key, clients=(*others, thief, replace(web1, credentials=())))


def test_a_ca_is_not_trusted_for_a_name_after_its_client_was_removed(
    contents: Contents, good: dict[str, Any]
) -> None:
    others = tuple(client for client in contents.clients if client.name != "web1")
    snapshot = snapshot_of(replace(contents, clients=others))
    assert identify(snapshot, good) == Denial(Rule.UNKNOWN_CLIENT)


# --- lifetimes and revocation ---


@pytest.mark.parametrize(("longest_s", "believed"), [(7_200, True), (7_199, False), (0, True), (1, False)])
def test_a_certificate_longer_than_its_ca_may_issue_is_refused(
    contents: Contents, good: dict[str, Any], longest_s: int, believed: bool
) -> None:
    cas = tuple(replace(ca, max_lifetime_s=longest_s) for ca in contents.user_cas)
    decision = identify(snapshot_of(replace(contents, user_cas=cas)), good)
    assert decision == Denial(Rule.LIFETIME_TOO_LONG) if not believed else isinstance(decision, Identity)


@pytest.mark.parametrize(
    ("kind", "ca", "value", "hit"),
    [
        ("serial", "CA1", "42", True),
        ("key-id", "CA1", "laptop", True),
        ("key", "", "K1", True),
        ("key", "", "CA1", True),
        ("serial", "CA2", "42", False),
        ("serial", "CA1", "43", False),
        ("key-id", "CA1", "42", False),
        ("key-id", "CA1", "Laptop", False),
        ("key", "", "F1", False),
        ("serial", "CA1", "laptop", False),
    ],
)
def test_a_revocation_applies_to_what_it_names(
    contents: Contents, good: dict[str, Any], now: datetime, kind: str, ca: str, value: str, hit: bool
) -> None:
    before = identify(snapshot_of(contents), good)
    assert isinstance(before, Identity)
    after = snapshot_of(replace(contents, revocations=(RevocationRecord(kind, ca, value, now),)))
    assert after.identities.knows(before) is not hit
    assert identify(after, good) == (Denial(Rule.REVOKED) if hit else before)


def test_a_revoked_key_is_nobodys_although_its_client_has_it(contents: Contents, now: datetime) -> None:
    before = snapshot_of(contents).identities.identify_key("web1", "F1")
    assert before is not None
    after = snapshot_of(replace(contents, revocations=(RevocationRecord("key", "", "F1", now),)))
    assert after.identities.identify_key("web1", "F1") is None
    assert not after.identities.knows(before)
    assert after.identities.identify_key("web1", "F1b") is not None


def test_a_client_whose_keys_were_all_revoked_is_explained_and_logged(
    contents: Contents, now: datetime
) -> None:
    """It kept its grants; `grant explain` called its requests allowed, and the log an unknown client."""
    contents = replace(contents, user_cas=())
    before = snapshot_of(contents)
    assert before.explain("web1", "site", 1, now).allowed
    assert before.identities.why_not_identified("web1", "F2") == "the key is that of the client web2"
    assert before.identities.why_not_identified("web1", "F9") == "the client does not have this key"
    assert before.identities.why_not_identified("nobody", "F9") == "there is no client of that name"
    after = snapshot_of(
        replace(
            contents,
            revocations=(RevocationRecord("key", "", "F1", now), RevocationRecord("key", "", "F1b", now)),
        )
    )
    assert after.identities.is_revoked_key("F1") and not after.identities.is_revoked_key("F2")
    assert after.explain("web1", "site", 1, now) == Explanation.of(Rule.REVOKED)
    assert after.identities.why_not_identified("web1", "F1") == "the key was revoked"
    assert after.explain("web2", "site", 1, now) == before.explain("web2", "site", 1, now)
