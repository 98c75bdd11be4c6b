"""Decisions about limited grants: until when, for which purpose, and beside grants without limits."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from hsmd.daemon.front.access import Denial, Grant, Identity, Rule, Snapshot
from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.store.contents import Contents
from hsmd.daemon.store.records import LimitedGrantRecord, Limits
from hsmd.protocol import messages
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose
from tests.support.snapshots import snapshot_of

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
    return snapshot_of(replace(contents, grants=(), limited_grants=(use, csr)))


def test_a_limited_grant_has_the_id_that_is_counted(until: Snapshot, site: bytes, now: datetime) -> None:
    grant = until.decide(WEB1, site, TLS13, now)
    assert isinstance(grant, Grant)
    assert (grant.limit, grant.key_name, grant.purpose) == (6, "site", TLS13)
    assert until.decide(WEB1, site, Purpose.TLS12_SERVER, now) == Denial(Rule.PURPOSE_NOT_GRANTED)


def test_a_grant_without_limits_has_none(contents: Contents, site: bytes, now: datetime) -> None:
    grant = snapshot_of(contents).decide(WEB1, site, TLS13, now)
    assert isinstance(grant, Grant)
    assert grant.limit is None


def test_at_its_end_a_grant_has_ended(until: Snapshot, site: bytes, now: datetime) -> None:
    before, end = now + HOUR - timedelta(microseconds=1), now + HOUR
    assert isinstance(until.decide(WEB1, site, TLS13, before), Grant)
    assert until.decide(WEB1, site, TLS13, end) == Denial(Rule.GRANT_EXPIRED)
    assert until.explain("web1", "site", TLS13, before).allowed
    assert until.explain("web1", "site", TLS13, end).rule.startswith("grant-expired: ")


@pytest.mark.parametrize(("used", "held", "rule"), [(3, False, "exhausted"), (0, True, "held")])
def test_a_grant_whose_uses_the_store_would_refuse_is_refused_without_it(
    contents: Contents,
    csr_grant: LimitedGrantRecord,
    site: bytes,
    now: datetime,
    used: int,
    held: bool,
    rule: str,
) -> None:
    grant = replace(csr_grant, purpose=TLS13, limits=Limits(max_uses=3), used=used, held=held)
    csr = replace(csr_grant, limits=replace(csr_grant.limits, max_uses=3), used=used, held=held, id=7)
    snapshot = snapshot_of(replace(contents, grants=(), limited_grants=(grant, csr)))
    denial = Denial(Rule(f"grant-{rule}"))
    assert snapshot.decide(WEB1, site, TLS13, now) == denial
    assert snapshot.decide_request(WEB1, messages.KeyRequest("site"), now) == denial
    assert snapshot.explain("web1", "site", TLS13, now).rule.startswith(f"grant-{rule}: ")


def test_a_held_count_does_not_limit_a_grant_without_a_number_of_uses(
    contents: Contents, csr_grant: LimitedGrantRecord, site: bytes, now: datetime
) -> None:
    grant = replace(csr_grant, purpose=TLS13, limits=Limits(not_after=now + HOUR), used=9, held=True)
    snapshot = snapshot_of(replace(contents, grants=(), limited_grants=(grant,)))
    assert isinstance(snapshot.decide(WEB1, site, TLS13, now), Grant)


def test_what_the_store_has_refused_is_refused_until_the_contents_change(
    until: Snapshot, contents: Contents, site: bytes, now: datetime
) -> None:
    until.note_refused(6, Rule.GRANT_EXHAUSTED)
    assert until.decide(WEB1, site, TLS13, now) == Denial(Rule.GRANT_EXHAUSTED)
    assert until.decide_request(WEB1, messages.KeyRequest("site"), now) is None, "another grant"
    assert isinstance(snapshot_of(contents).decide(WEB1, site, TLS13, now), Grant)


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
        {"purpose": Purpose.SIGN_MESSAGE, "limits": Limits(max_uses=3)},
        {"purpose": Purpose.X509_SELF_SIGNED, "limits": Limits(max_uses=3)},
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
    snapshot = snapshot_of(replace(contents, grants=(), limited_grants=(bad,)))
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
    snapshot = snapshot_of(replace(contents, limited_grants=(use,)))
    assert snapshot.decide(WEB1, site, TLS13, now) == Denial(Rule.GRANT_EXPIRED)
    assert isinstance(snapshot.decide(WEB1, site, Purpose.TLS12_SERVER, now), Grant)


def test_where_a_client_is_no_front_end_its_grants_count_for_nothing(
    until: Snapshot, site: bytes, now: datetime
) -> None:
    nowhere = replace(WEB1, roles=frozenset())
    assert until.decide(nowhere, site, TLS13, now) == Denial(Rule.WRONG_ROLE)
    assert until.decide_for_request(nowhere, "site", CSR, now) == Denial(Rule.WRONG_ROLE)
