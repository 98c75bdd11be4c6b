"""Decisions about control requests: by role, by grant on the key, and by an identity that is still valid."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from hsmd.daemon.front.access import Denial, Grant, Identity, Rule, Snapshot
from hsmd.daemon.front.access.credentials import CertificateCredential, KeyCredential
from hsmd.daemon.store.contents import Contents
from hsmd.daemon.store.records import ClientRecord, CredentialRecord, KeyOwner, LimitedGrantRecord
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.protocol.messages.base import NO_SUBJECT
from hsmd.protocol.roles import AT_OPERATOR_ADDRESSES, Role
from hsmd.purposes import Purpose
from tests.support.requests import minimal
from tests.support.snapshots import snapshot_of

CLIENTS = {
    Role.OPERATOR: Identity("ann", frozenset({Role.OPERATOR}), KeyCredential("FA")),
    Role.AUDITOR: Identity("eve", frozenset({Role.AUDITOR}), KeyCredential("FE")),
    Role.FRONT_END: Identity("web1", frozenset({Role.FRONT_END}), KeyCredential("F1")),
    Role.OWNER: Identity("owen", frozenset({Role.OWNER}), KeyCredential("FO")),
    Role.CHECKER: Identity("carl", frozenset({Role.CHECKER}), KeyCredential("FC")),
    Role.NODE: Identity("nora", frozenset({Role.NODE}), KeyCredential("FN")),
    Role.DEPOSITARY: Identity("dora", frozenset({Role.DEPOSITARY}), KeyCredential("FD")),
}
NEW = (Role.OWNER, Role.CHECKER, Role.NODE, Role.DEPOSITARY)
OWNERS = {"site": "owen", "mail": "carl", "old": "nora"}
FOR_ALL = {
    "audit.about", "audit.checkpoint", "audit.prove", "client.rotate-key", "events.follow", "events.read", "health.read",
    "statement.keys", "vault.check", "whoami",
}  # fmt: skip
FOR_OWNERS = (
    FOR_ALL
    | {"cert.chains", "cert.export", "key.history", "key.list", "key.show"}
    | {request.op() for request in messages.REQUESTS if request.op().startswith("vault.")} - {"vault.confirm"}
)
"""What the new roles may request. Each of their clients has a grant on the key `site`, which must have no effect."""


@pytest.fixture
def contents(contents: Contents, now: datetime) -> Contents:
    """With a client for each new role: it has a grant, and a key belongs to it, which has no effect without the role."""
    (granted,) = (each for each in contents.grants if each.client == "web1")
    names = [CLIENTS[role].client for role in NEW]
    return replace(
        contents,
        clients=(*contents.clients, *(client_with(CLIENTS[role].client, role) for role in NEW)),
        grants=(*contents.grants, *(replace(granted, client=name) for name in names)),
        keys=tuple(replace(key, owner=KeyOwner(OWNERS[key.name])) for key in contents.keys),
    )


def client_with(name: str, *roles: Role) -> ClientRecord:
    credential = CredentialRecord("F" + name[0].upper(), "line")
    return ClientRecord(name, frozenset(roles), (credential,), datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def snapshot(contents: Contents) -> Snapshot:
    return snapshot_of(contents)


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
    snapshot = snapshot_of(replace(contents, limited_grants=(csr_grant,)))
    denial = snapshot.decide_request(CLIENTS[role], about_site(request_type), now)
    assert denial == (None if role in request_type.roles else Denial(Rule.WRONG_ROLE))


def test_a_request_for_one_role_is_refused_to_every_other(snapshot: Snapshot, now: datetime) -> None:
    class New(Request, tag="new"):
        Result = messages.Done
        roles = frozenset({Role.AUDITOR})
        changes = False
        subject = NO_SUBJECT

    allowed = [role for role in Role if snapshot.decide_request(CLIENTS[role], New(), now) is None]
    assert allowed == [Role.AUDITOR]
    assert snapshot.decide_request(CLIENTS[Role.NODE], New(), now) == Denial(Rule.WRONG_ROLE)


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


# --- a right comes from a role that names it, never from the lack of one ---


@pytest.mark.parametrize("role", NEW)
def test_the_requests_of_the_new_roles_are_these(snapshot: Snapshot, now: datetime, role: Role) -> None:
    allowed = {
        request.op()
        for request in messages.REQUESTS
        if snapshot.decide_request(CLIENTS[role], about_site(request), now) is None
    }
    of_nodes = FOR_ALL | {"node.certificate", "node.trust"}
    assert allowed == {Role.OWNER: FOR_OWNERS, Role.NODE: of_nodes}.get(role, FOR_ALL)


@pytest.mark.parametrize("role", Role)
def test_only_a_front_end_uses_keys(
    snapshot: Snapshot, digests: dict[str, bytes], now: datetime, role: Role
) -> None:
    """A grant that another client holds is without effect, also in explanations."""
    identity = CLIENTS[role]
    decision = snapshot.decide(identity, digests["site"], Purpose.TLS13_SERVER, now)
    explained = snapshot.explain(identity.client, "site", Purpose.TLS13_SERVER, now)
    assert isinstance(decision, Grant) is explained.allowed is (role is Role.FRONT_END)
    if role is not Role.FRONT_END:
        assert decision == Denial(Rule.WRONG_ROLE)
        assert snapshot.keys_of(identity.client, now) == frozenset()


@pytest.mark.parametrize("role", Role)
def test_the_keys_that_a_role_sees(
    snapshot: Snapshot, digests: dict[str, bytes], now: datetime, role: Role
) -> None:
    visible = snapshot.keys_for(CLIENTS[role], messages.KeyShow, now)
    if role in (Role.OPERATOR, Role.AUDITOR):
        assert visible is None
    else:
        assert visible == ({digests["site"]} if role in (Role.FRONT_END, Role.OWNER) else frozenset())


def test_a_client_may_do_what_any_of_its_roles_allows(
    contents: Contents, digests: dict[str, bytes], now: datetime
) -> None:
    """Each role with its own condition: an owner that is a front end sees what it owns and what is granted to it."""
    both = frozenset({Role.FRONT_END, Role.OWNER})
    clients = tuple(
        replace(each, roles=both) if each.name in ("owen", "web2") else each for each in contents.clients
    )
    snapshot = snapshot_of(replace(contents, clients=clients))
    owen = snapshot.identities.identify_key("owen", "FO")
    web2 = snapshot.identities.identify_key("web2", "F2")
    assert owen is not None and web2 is not None and owen.roles == both
    assert isinstance(snapshot.decide(owen, digests["site"], Purpose.TLS13_SERVER, now), Grant)
    assert snapshot.keys_for(web2, messages.KeyShow, now) == {digests["mail"]}
    assert snapshot.decide_request(web2, messages.KeyShow("mail"), now) is None
    assert snapshot.decide_request(web2, messages.KeyShow("site"), now) == Denial(Rule.NO_GRANT)
    assert snapshot.decide_request(web2, messages.ClientList(), now) == Denial(Rule.WRONG_ROLE)


def test_a_role_that_makes_the_request_brings_its_own_condition(snapshot: Snapshot, now: datetime) -> None:
    """An auditor may name any key where auditors may make the request, and needs a grant where only front ends may."""

    class ForFrontEnds(Request, tag="for.front-ends"):
        Result = messages.Done
        roles = frozenset({Role.OPERATOR, Role.FRONT_END})
        changes = False
        subject = messages.Subject(key="key")

        key: str

    clients = (client_with("eve", Role.AUDITOR, Role.FRONT_END),)
    both = snapshot_of(Contents(1, clients=clients)).identities.identify_key("eve", "FE")
    assert both is not None
    here = snapshot_of(Contents(1, clients=clients))
    assert here.decide_request(both, messages.KeyShow("site"), now) is None
    assert here.decide_request(both, ForFrontEnds("site"), now) == Denial(Rule.UNKNOWN_KEY)
    assert snapshot.decide_request(CLIENTS[Role.FRONT_END], ForFrontEnds("site"), now) is None
    assert snapshot.decide_request(CLIENTS[Role.FRONT_END], ForFrontEnds("mail"), now) == Denial(
        Rule.NO_GRANT
    )
    assert snapshot.decide_request(CLIENTS[Role.OPERATOR], ForFrontEnds("nothing"), now) is None


def test_a_grant_counts_only_where_front_ends_may_make_the_request(
    contents: Contents, csr_grant: LimitedGrantRecord, now: datetime
) -> None:
    """An owner that is also a front end must own the key where owners are asked for, whatever was granted to it."""

    class ForOwners(Request, tag="for.owners"):
        Result = messages.Done
        roles = frozenset({Role.OPERATOR, Role.OWNER})
        changes = False
        subject = messages.Subject(key="name")
        needs = Purpose.X509_REQUEST

        name: str

    both = client_with("web1", Role.OWNER, Role.FRONT_END)
    clients = tuple(both if each.name == "web1" else each for each in contents.clients)
    snapshot = snapshot_of(replace(contents, clients=clients, limited_grants=(csr_grant,)))
    identity = replace(
        CLIENTS[Role.FRONT_END], roles=both.roles, credential=KeyCredential(both.credentials[0].fingerprint)
    )
    assert snapshot.decide_request(identity, messages.KeyRequest("site"), now) is None
    assert snapshot.decide_request(identity, ForOwners("site"), now) == Denial(Rule.NO_GRANT)


# --- identities at an address, and after a change of roles ---


def test_an_identity_has_the_roles_that_its_address_admits(
    contents: Contents, digests: dict[str, bytes], now: datetime
) -> None:
    both = frozenset({Role.OPERATOR, Role.FRONT_END})
    clients = tuple(replace(each, roles=both) if each.name == "web1" else each for each in contents.clients)
    snapshot = snapshot_of(replace(contents, clients=clients))
    identity = snapshot.identities.identify_key("web1", "F1")
    assert identity is not None
    operator, front_end = (
        identity.at(AT_OPERATOR_ADDRESSES),
        identity.at(frozenset(Role) - AT_OPERATOR_ADDRESSES),
    )
    assert (operator.roles, front_end.roles) == ({Role.OPERATOR}, {Role.FRONT_END})
    assert identity.at(frozenset(Role)) == identity
    for each, used, listed in ((operator, False, True), (front_end, True, False), (identity, True, True)):
        assert snapshot.identities.knows(each)
        assert isinstance(snapshot.decide(each, digests["site"], Purpose.TLS13_SERVER, now), Grant) is used
        assert (snapshot.decide_request(each, messages.ClientList(), now) is None) is listed
    assert identity.at(frozenset({Role.NODE})).roles == frozenset()
    assert snapshot.decide_request(identity.at(frozenset()), messages.WhoAmI(), now) == Denial(
        Rule.WRONG_ROLE
    )


def test_an_identity_stands_while_its_client_has_all_its_roles(contents: Contents) -> None:
    def with_roles(*roles: Role) -> Snapshot:
        clients = tuple(
            replace(each, roles=frozenset(roles)) if each.name == "web1" else each
            for each in contents.clients
        )
        return snapshot_of(replace(contents, clients=clients))

    alone = with_roles(Role.FRONT_END).identities.identify_key("web1", "F1")
    both = with_roles(Role.FRONT_END, Role.OWNER).identities.identify_key("web1", "F1")
    assert alone is not None and both is not None
    assert with_roles(Role.FRONT_END, Role.OWNER).identities.knows(alone), "a further role takes nothing away"
    assert not with_roles(Role.FRONT_END).identities.knows(both)
    assert with_roles(Role.FRONT_END).identities.knows(both.at(frozenset({Role.FRONT_END})))
    assert not with_roles(Role.OWNER, Role.NODE).identities.knows(alone)


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
        assert not snapshot.identities.knows(identity)
