"""Decisions about key operations: every rule that denies, the rule that allows, and explanations that agree with both."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from hsmd.algorithms import KeyType
from hsmd.daemon.front.access import Denial, Explanation, Grant, Identity, Rule, Snapshot
from hsmd.daemon.front.access.credentials import CertificateCredential, KeyCredential
from hsmd.daemon.store.contents import Contents
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose
from tests.support.snapshots import snapshot_of

Digests = dict[str, bytes]


@pytest.fixture
def snapshot(contents: Contents) -> Snapshot:
    return snapshot_of(contents)


def identity_of(snapshot: Snapshot, name: str, fingerprint: str) -> Identity:
    identity = snapshot.identities.identify_key(name, fingerprint)
    assert identity is not None
    return identity


def test_a_grant_has_what_the_worker_needs(snapshot: Snapshot, digests: Digests, now: datetime) -> None:
    expected = Grant("web1", "site", digests["site"], Purpose.TLS13_SERVER, "main", KeyType.P256, 1.0)
    assert snapshot.decide(identity_of(snapshot, "web1", "F1"), digests["site"], 1, now) == expected


@pytest.mark.parametrize(
    ("caller", "key", "purpose", "rule"),
    [
        (("web1", "F1"), "unknown", Purpose.TLS13_SERVER, Rule.UNKNOWN_KEY),
        (("web1", "F1"), "mail", Purpose.TLS13_SERVER, Rule.NO_GRANT),
        (("web2", "F2"), "mail", Purpose.TLS12_SERVER, Rule.PURPOSE_NOT_GRANTED),
        (("web1", "F1"), "site", Purpose.TLS13_CLIENT, Rule.PURPOSE_OUTSIDE_CEILING),
        (("web1", "F1"), "site", Purpose.SIGN_DIGEST, Rule.PURPOSE_OUTSIDE_CEILING),
        (("web1", "F1"), "mail", Purpose.SIGN_MESSAGE, Rule.PURPOSE_OUTSIDE_CEILING),
        (("web1", "F1"), "site", Purpose.X509_REQUEST, Rule.PURPOSE_NOT_GRANTABLE),
        (("web1", "F1"), "site", Purpose.X509_SELF_SIGNED, Rule.PURPOSE_NOT_GRANTABLE),
        (("web1", "F1"), "site", 0, Rule.PURPOSE_NOT_GRANTABLE),
        (("web1", "F1"), "site", 6, Rule.PURPOSE_NOT_GRANTABLE),
        (("web1", "F1"), "site", 255, Rule.PURPOSE_NOT_GRANTABLE),
        (("ann", "FA"), "site", Purpose.TLS13_SERVER, Rule.WRONG_ROLE),
        (("ann", "FA"), "site", Purpose.X509_REQUEST, Rule.WRONG_ROLE),
        (("eve", "FE"), "unknown", Purpose.TLS13_SERVER, Rule.WRONG_ROLE),
    ],
)
def test_a_use_without_a_grant_is_denied_and_the_rule_named(
    snapshot: Snapshot,
    digests: Digests,
    now: datetime,
    caller: tuple[str, str],
    key: str,
    purpose: int,
    rule: Rule,
) -> None:
    assert snapshot.decide(identity_of(snapshot, *caller), digests[key], purpose, now) == Denial(rule)


@pytest.mark.parametrize("key", [b"", b"\0" * 31, b"site", b"\xff" * 64])
def test_bytes_that_are_not_a_digest_identify_no_key(snapshot: Snapshot, now: datetime, key: bytes) -> None:
    assert snapshot.decide(identity_of(snapshot, "web1", "F1"), key, 1, now) == Denial(Rule.UNKNOWN_KEY)


def test_the_validity_of_a_certificate_is_checked_with_each_request(
    snapshot: Snapshot, digests: Digests, now: datetime
) -> None:
    ends = now + timedelta(minutes=5)
    identity = Identity("web1", frozenset({Role.FRONT_END}), CertificateCredential(1, "CA1"), ends)
    just_before = ends - timedelta(microseconds=1)
    assert isinstance(snapshot.decide(identity, digests["site"], 1, just_before), Grant)
    assert snapshot.decide(identity, digests["site"], 1, ends) == Denial(Rule.EXPIRED_CERTIFICATE)


def test_an_identity_is_checked_with_each_request(
    contents: Contents, digests: Digests, now: datetime
) -> None:
    identity = identity_of(snapshot_of(contents), "web1", "F1")

    def decide(**changes: object) -> Grant | Denial:
        return snapshot_of(replace(contents, **changes)).decide(identity, digests["site"], 1, now)  # type: ignore[arg-type]

    others = tuple(client for client in contents.clients if client.name != "web1")
    web1 = next(client for client in contents.clients if client.name == "web1")
    assert isinstance(decide(), Grant)
    assert decide(clients=others) == Denial(Rule.UNKNOWN_CLIENT)
    assert decide(clients=(*others, replace(web1, credentials=()))) == Denial(Rule.WITHDRAWN_CREDENTIAL)
    assert decide(clients=(*others, replace(web1, roles=frozenset({Role.OPERATOR})))) == Denial(
        Rule.WITHDRAWN_CREDENTIAL
    )
    assert decide(grants=()) == Denial(Rule.NO_GRANT)
    assert decide(keys=()) == Denial(Rule.UNKNOWN_KEY)


def test_invalid_grant_rows_grant_nothing(contents: Contents, digests: Digests, now: datetime) -> None:
    """A grant that the store must not contain has no effect."""
    (site,) = (grant for grant in contents.grants if grant.client == "web1")
    bad = (
        replace(site, client="ann"),
        replace(site, client="gone"),
        replace(site, key_digest=digests["unknown"]),
        replace(site, purposes=frozenset({Purpose.SIGN_MESSAGE, Purpose.X509_REQUEST})),
        replace(site, key="mail"),  # the digest decides, not the name
    )
    snapshot = snapshot_of(replace(contents, grants=bad))
    web1, ann = identity_of(snapshot, "web1", "F1"), identity_of(snapshot, "ann", "FA")
    gone = Identity("gone", frozenset({Role.FRONT_END}), KeyCredential("FG"))

    def granted(identity: Identity, key: str) -> dict[int, Grant]:
        decisions = {code: snapshot.decide(identity, digests[key], code, now) for code in range(256)}
        return {code: decision for code, decision in decisions.items() if isinstance(decision, Grant)}

    for identity in (ann, gone):
        assert not any(granted(identity, key) for key in digests)
    assert list(granted(web1, "site")) == [1, 3]
    assert granted(web1, "site")[1].key_name == "site"
    assert not granted(web1, "mail")
    assert snapshot.keys_of("web1", now) == {digests["site"]}
    assert snapshot.keys_of("ann", now) == frozenset()


def test_explanations_agree_with_decisions(snapshot: Snapshot, digests: Digests, now: datetime) -> None:
    clients = [("web1", "F1"), ("web2", "F2"), ("ann", "FA"), ("eve", "FE")]
    for name, fingerprint in clients:
        for key, digest in digests.items():
            for purpose in set(range(256)) - {
                Purpose.X509_REQUEST
            }:  # explained as `key.csr` would be decided
                decision = snapshot.decide(identity_of(snapshot, name, fingerprint), digest, purpose, now)
                rule = decision.rule if isinstance(decision, Denial) else Rule.GRANTED
                explanation = snapshot.explain(name, key, purpose, now)
                assert explanation.allowed is isinstance(decision, Grant)
                assert explanation.rule.partition(": ") == (rule.value, ": ", rule.text)


def test_an_unknown_client_is_explained(snapshot: Snapshot, now: datetime) -> None:
    assert snapshot.explain("missing", "site", 1, now) == Explanation.of(Rule.UNKNOWN_CLIENT)


def test_every_rule_has_a_short_name_and_a_sentence() -> None:
    assert len({rule.value for rule in Rule}) == len(Rule)
    for rule in Rule:
        assert rule.value == rule.name.lower().replace("_", "-")
        assert len(rule.text) > 10
        assert Explanation.of(rule).allowed is (rule is Rule.GRANTED)


def test_the_snapshot_has_counts_keys_and_expiry_dates(
    snapshot: Snapshot, digests: Digests, now: datetime
) -> None:
    assert snapshot.version == 7
    assert (snapshot.key_count, snapshot.client_count, snapshot.grant_count) == (3, 5, 4)
    assert snapshot.keys_of("web1", now) == {digests["site"]}
    assert snapshot.keys_of("missing", now) == frozenset()
    assert snapshot.certificate_not_after("site") == now
    assert snapshot.certificate_not_after("mail") is None


def test_the_text_of_a_denial_has_no_placeholder() -> None:
    """Rules are logged and never sent to the peer; they contain no names, so that none can be injected into the log."""
    assert "{" not in "".join(rule.text for rule in Rule)


def test_a_snapshot_does_not_change_with_its_contents(
    contents: Contents, digests: Digests, now: datetime
) -> None:
    snapshot = snapshot_of(contents)
    with pytest.raises(AttributeError):
        snapshot.extra = 1  # type: ignore[attr-defined]
    later = snapshot_of(replace(contents, version=8, grants=()))
    web1 = identity_of(snapshot, "web1", "F1")
    assert isinstance(later.decide(web1, digests["site"], 1, now), Denial)
    assert isinstance(snapshot.decide(web1, digests["site"], 1, now), Grant)
