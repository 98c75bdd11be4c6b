"""The table of roles, spelt out once more: who may make which control request."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from hsmd.daemon.front.access import Denial, Identity, Rule, Snapshot
from hsmd.daemon.store.records import Contents
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.protocol.roles import Role

PEOPLE = {
    Role.OPERATOR: Identity("ann", Role.OPERATOR, "FA"),
    Role.AUDITOR: Identity("eve", Role.AUDITOR, "FE"),
    Role.FRONT_END: Identity("web1", Role.FRONT_END, "F1"),
}
AUDITOR = {
    "whoami", "status", "token.list", "metrics.read", "key.list", "key.show", "cert.export", "client.list", "client.rotate-key", "client.revoked", "grant.list",
    "grant.explain",
    "audit.read", "audit.checkpoint", "audit.prove", "audit.about", "audit.stand", "key.owner.list",
}  # fmt: skip
FRONT_END = {
    "whoami",
    "client.rotate-key",
    "key.list",
    "key.show",
    "cert.export",
    "audit.checkpoint",
    "audit.prove",
    "audit.about",
}


@pytest.fixture
def snapshot(contents: Contents) -> Snapshot:
    return Snapshot.build(contents)


def tag(request_type: type[Request]) -> str:
    return str(request_type.__struct_config__.tag)


@pytest.mark.parametrize("request_type", messages.REQUESTS, ids=tag)
def test_the_table(snapshot: Snapshot, request_type: type[Request]) -> None:
    assert snapshot.may(PEOPLE[Role.OPERATOR], request_type)
    assert snapshot.may(PEOPLE[Role.AUDITOR], request_type) is (tag(request_type) in AUDITOR)
    assert snapshot.may(PEOPLE[Role.FRONT_END], request_type) is (tag(request_type) in FRONT_END)


def test_a_request_that_is_not_in_the_table_is_nobodys(snapshot: Snapshot) -> None:
    class New(Request, tag="new"):
        Result = messages.Done

    for identity in PEOPLE.values():
        assert not snapshot.may(identity, New)


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
        (messages.Status(), Rule.WRONG_ROLE),
        (messages.GrantAdd(client="web1", key="mail", purposes=["tls-server"]), Rule.WRONG_ROLE),
        (messages.AuditRead(), Rule.WRONG_ROLE),
        (messages.AuditCheckpoint(), None),
    ],
)
def test_a_front_end_sees_only_keys_it_has_a_grant_on(
    snapshot: Snapshot, now: datetime, request_: Request, rule: Rule | None
) -> None:
    denial = snapshot.decide_request(PEOPLE[Role.FRONT_END], request_, now)
    assert denial == (None if rule is None else Denial(rule))
    assert snapshot.decide_request(PEOPLE[Role.OPERATOR], request_, now) is None


def test_control_requests_need_an_identity_that_stands(snapshot: Snapshot, now: datetime) -> None:
    whoami = messages.WhoAmI()
    ended = Identity("ann", Role.OPERATOR, "cert:1 CA1", now)
    good = Identity("ann", Role.OPERATOR, "cert:1 CA1", now + timedelta(seconds=1))
    withdrawn = Identity("ann", Role.OPERATOR, "another key")
    promoted = Identity("eve", Role.OPERATOR, "FE")
    gone = Identity("gone", Role.OPERATOR, "FG")
    assert snapshot.decide_request(good, whoami, now) is None
    assert snapshot.decide_request(ended, whoami, now) == Denial(Rule.EXPIRED_CERTIFICATE)
    for identity, rule in (
        (withdrawn, Rule.WITHDRAWN_CREDENTIAL),
        (promoted, Rule.WITHDRAWN_CREDENTIAL),
        (gone, Rule.UNKNOWN_CLIENT),
    ):
        assert snapshot.decide_request(identity, whoami, now) == Denial(rule)
        assert not snapshot.may(identity, messages.WhoAmI)
