"""Decisions about control requests: by role, by grant on the key, and by an identity that is still valid."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from hsmd.daemon.front.access import Denial, Identity, Rule, Snapshot
from hsmd.daemon.front.access.credentials import CertificateCredential, KeyCredential
from hsmd.daemon.store.records import Contents, LimitedGrantRecord
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.protocol.messages.base import NO_SUBJECT
from hsmd.protocol.roles import Role
from tests.support.requests import minimal

CLIENTS = {
    Role.OPERATOR: Identity("ann", frozenset({Role.OPERATOR}), KeyCredential("FA")),
    Role.AUDITOR: Identity("eve", frozenset({Role.AUDITOR}), KeyCredential("FE")),
    Role.FRONT_END: Identity("web1", frozenset({Role.FRONT_END}), KeyCredential("F1")),
}


@pytest.fixture
def snapshot(contents: Contents) -> Snapshot:
    return Snapshot.build(contents)


def about_site(request_type: type[Request]) -> Request:
    """A request whose key, if it is about one, is one on which the front end has a grant."""
    request = minimal(request_type)
    if request.subject.key:
        setattr(request, request.subject.key, "site")
    return request


@pytest.mark.parametrize("request_type", messages.REQUESTS, ids=lambda each: each.op())
@pytest.mark.parametrize("role", CLIENTS)
def test_a_request_is_allowed_for_the_roles_it_declares(
    contents: Contents, csr_grant: LimitedGrantRecord, now: datetime, request_type: type[Request], role: Role
) -> None:
    """tests/unit/protocol/test_declarations.py spells out the roles of every request."""
    snapshot = Snapshot.build(replace(contents, limited_grants=(csr_grant,)))
    denial = snapshot.decide_request(CLIENTS[role], about_site(request_type), now)
    assert denial == (None if role in request_type.roles else Denial(Rule.WRONG_ROLE))


def test_a_request_for_one_role_is_refused_to_every_other(snapshot: Snapshot, now: datetime) -> None:
    class New(Request, tag="new"):
        Result = messages.Done
        roles = frozenset({Role.AUDITOR})
        changes = False
        subject = NO_SUBJECT

    decisions = [snapshot.decide_request(identity, New(), now) for identity in CLIENTS.values()]
    assert decisions == [Denial(Rule.WRONG_ROLE), None, Denial(Rule.WRONG_ROLE)]


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (messages.WhoAmI(), None),
        (messages.KeyList(), None),
        (messages.KeyShow(name="site"), None),
        (messages.CertificateExport(key="site"), None),
        (messages.KeyShow(name="mail"), Rule.NO_GRANT),
        (messages.CertificateExport(key="mail"), Rule.NO_GRANT),
        (messages.KeyShow(name="nothing"), Rule.UNKNOWN_KEY),
        (messages.CertificateExport(key="nothing"), Rule.UNKNOWN_KEY),
        (messages.KeyRequest(name="site"), Rule.PURPOSE_NOT_GRANTED),
        (messages.KeyRequest(name="mail"), Rule.NO_GRANT),
        (messages.KeyRequest(name="nothing"), Rule.UNKNOWN_KEY),
        (messages.Status(), Rule.WRONG_ROLE),
        (messages.GrantAdd(client="web1", key="mail", purposes=["tls-server"]), Rule.WRONG_ROLE),
        (messages.AuditRead(), Rule.WRONG_ROLE),
        (messages.AuditCheckpoint(), None),
    ],
)
def test_a_front_end_sees_only_keys_it_has_a_grant_for(
    snapshot: Snapshot, now: datetime, request_: Request, rule: Rule | None
) -> None:
    denial = snapshot.decide_request(CLIENTS[Role.FRONT_END], request_, now)
    assert denial == (None if rule is None else Denial(rule))
    assert snapshot.decide_request(CLIENTS[Role.OPERATOR], request_, now) is None


def test_control_requests_need_a_valid_identity(snapshot: Snapshot, now: datetime) -> None:
    whoami = messages.WhoAmI()
    ended = Identity("ann", frozenset({Role.OPERATOR}), CertificateCredential(1, "CA1"), now)
    good = Identity(
        "ann", frozenset({Role.OPERATOR}), CertificateCredential(1, "CA1"), now + timedelta(seconds=1)
    )
    withdrawn = Identity("ann", frozenset({Role.OPERATOR}), KeyCredential("another key"))
    promoted = Identity("eve", frozenset({Role.OPERATOR}), KeyCredential("FE"))
    gone = Identity("gone", frozenset({Role.OPERATOR}), KeyCredential("FG"))
    assert snapshot.decide_request(good, whoami, now) is None
    assert snapshot.decide_request(ended, whoami, now) == Denial(Rule.EXPIRED_CERTIFICATE)
    for identity, rule in (
        (withdrawn, Rule.WITHDRAWN_CREDENTIAL),
        (promoted, Rule.WITHDRAWN_CREDENTIAL),
        (gone, Rule.UNKNOWN_CLIENT),
    ):
        assert snapshot.decide_request(identity, whoami, now) == Denial(rule)
        assert not snapshot.knows(identity)
