"""Decisions about limited grants: until when, for which purpose, and beside grants without limits."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from hsmd.daemon.front.access import Denial, Grant, Identity, Rule, Snapshot
from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.store.records import Contents, LimitedGrantRecord, Limits
from hsmd.protocol import messages
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose

WEB1 = Identity("web1", frozenset({Role.FRONT_END}), KeyCredential("F1"))
TLS13, CSR = Purpose.TLS13_SERVER, Purpose.X509_REQUEST
HOUR = timedelta(hours=1)


@pytest.fixture
def site(digests: dict[str, bytes]) -> bytes:
    return digests["site"]


@pytest.fixture
def until(contents: Contents, csr_grant: LimitedGrantRecord, now: datetime) -> Snapshot:
    """web1 has a limited grant for tls13-server and one for x509-request on site, both for an hour, and no other."""
    use = replace(csr_grant, id=6, purpose=TLS13, limits=Limits(not_after=now + HOUR, max_uses=3))
    csr = replace(csr_grant, limits=replace(csr_grant.limits, not_after=now + HOUR))
    return Snapshot.build(replace(contents, grants=(), limited_grants=(use, csr)))


def test_a_limited_grant_has_the_id_that_is_counted(until: Snapshot, site: bytes, now: datetime) -> None:
    grant = until.decide(WEB1, site, TLS13, now)
    assert isinstance(grant, Grant)
    assert (grant.limit, grant.key_name, grant.purpose) == (6, "site", TLS13)
    assert until.decide(WEB1, site, Purpose.TLS12_SERVER, now) == Denial(Rule.PURPOSE_NOT_GRANTED)


def test_a_grant_without_limits_has_none(contents: Contents, site: bytes, now: datetime) -> None:
    grant = Snapshot.build(contents).decide(WEB1, site, TLS13, now)
    assert isinstance(grant, Grant)
    assert grant.limit is None


def test_at_its_end_a_grant_has_ended(until: Snapshot, site: bytes, now: datetime) -> None:
    before, end = now + HOUR - timedelta(microseconds=1), now + HOUR
    assert isinstance(until.decide(WEB1, site, TLS13, before), Grant)
    assert until.decide(WEB1, site, TLS13, end) == Denial(Rule.GRANT_EXPIRED)
    assert until.explain("web1", "site", TLS13, before).allowed
    assert until.explain("web1", "site", TLS13, end).rule.startswith("grant-expired: ")


def test_with_its_last_grant_a_key_disappears(until: Snapshot, site: bytes, now: datetime) -> None:
    show, csr = messages.KeyShow("site"), messages.KeyRequest("site")
    assert until.keys_of("web1", now) == {site}
    assert until.decide_request(WEB1, show, now) is None
    assert until.decide_request(WEB1, csr, now) is None
    assert until.keys_of("web1", now + HOUR) == frozenset()
    assert until.decide_request(WEB1, show, now + HOUR) == Denial(Rule.NO_GRANT)
    assert until.decide_request(WEB1, csr, now + HOUR) == Denial(Rule.GRANT_EXPIRED)


def test_a_grant_for_certificate_requests_is_for_no_frame(
    until: Snapshot, site: bytes, now: datetime
) -> None:
    """A frame would bring bytes of the client's own, with any names."""
    assert until.decide(WEB1, site, CSR, now) == Denial(Rule.PURPOSE_NOT_GRANTABLE)
    grant = until.decide_for_request(WEB1, "site", CSR, now)
    assert isinstance(grant, Grant)
    assert grant.allowed is not None
    assert grant.allowed.names == {"*.example.com"}


@pytest.mark.parametrize(
    "change",
    [
        {"client": "ann"},
        {"client": "gone"},
        {"key_digest": b"\xff" * 32},
        {"purpose": Purpose.SIGN_MESSAGE},
        {"purpose": Purpose.X509_SELF_SIGNED},
        {"limits": Limits(max_uses=3)},
        {"limits": Limits(constraints='{"hosts":["example.com"]}')},
        {"limits": Limits(constraints="x")},
        {"purpose": TLS13},
    ],
)
def test_rows_that_the_store_must_not_hold_grant_nothing(
    contents: Contents, csr_grant: LimitedGrantRecord, site: bytes, now: datetime, change: dict[str, object]
) -> None:
    bad = replace(csr_grant, **change)  # type: ignore[arg-type]
    snapshot = Snapshot.build(replace(contents, grants=(), limited_grants=(bad,)))
    for client, fingerprint, role in (("web1", "F1", Role.FRONT_END), ("ann", "FA", Role.OPERATOR)):
        identity = Identity(client, frozenset({role}), KeyCredential(fingerprint))
        for purpose in Purpose:
            assert isinstance(snapshot.decide(identity, site, purpose, now), Denial)
            assert isinstance(snapshot.decide_for_request(identity, "site", purpose, now), Denial)


def test_beside_a_grant_without_limits_the_limits_hold(
    contents: Contents, csr_grant: LimitedGrantRecord, site: bytes, now: datetime
) -> None:
    """A daemon of an earlier release, which does not know limits, may have added the other grant."""
    use = replace(csr_grant, purpose=TLS13, limits=Limits(not_after=now))
    snapshot = Snapshot.build(replace(contents, limited_grants=(use,)))
    assert snapshot.decide(WEB1, site, TLS13, now) == Denial(Rule.GRANT_EXPIRED)
    assert isinstance(snapshot.decide(WEB1, site, Purpose.TLS12_SERVER, now), Grant)


def test_where_a_client_is_no_front_end_its_grants_count_for_nothing(
    until: Snapshot, site: bytes, now: datetime
) -> None:
    nowhere = replace(WEB1, roles=frozenset())
    assert until.decide(nowhere, site, TLS13, now) == Denial(Rule.WRONG_ROLE)
    assert until.decide_for_request(nowhere, "site", CSR, now) == Denial(Rule.WRONG_ROLE)
