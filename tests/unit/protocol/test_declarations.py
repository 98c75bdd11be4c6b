"""The declarations of control requests, compared with a table, so that every change of a rule needs a change here."""

from __future__ import annotations

from hashlib import sha256

import pytest

from hsmd.protocol import messages
from hsmd.protocol.audit_fields import fields_of, subject_of
from hsmd.protocol.messages import Request, Subject
from hsmd.protocol.messages.base import NO_SUBJECT, OPERATOR
from hsmd.protocol.messages.enumerations import PURPOSE, PURPOSE_OR_GROUP
from hsmd.protocol.roles import Role
from hsmd.purposes import GROUPS, Purpose

QUERY, CHANGE = False, True
INITIALS = {
    "o": Role.OPERATOR, "a": Role.AUDITOR, "f": Role.FRONT_END, "w": Role.OWNER,
    "c": Role.CHECKER, "n": Role.NODE, "d": Role.DEPOSITARY,
}  # fmt: skip
ANY_KEY = {Role.OPERATOR, Role.AUDITOR}
"""The roles that may name any key in a request; a front end needs a grant on it, and an owner must own it."""
DECLARED: dict[str, tuple[object, ...]] = {
    # op: (initials of the roles, whether it changes something, member with the key, with the client, hashed members ...)
    "audit.about": ("oafwcnd", QUERY, "", ""),
    "audit.checkpoint": ("oafwcnd", QUERY, "", ""),
    "audit.discontinuity": ("o", CHANGE, "", "", "note"),
    "audit.prove": ("oafwcnd", QUERY, "", ""),
    "audit.read": ("oa", QUERY, "", ""),
    "audit.seal": ("o", CHANGE, "", ""),
    "audit.stand": ("oa", QUERY, "", ""),
    "ca.allow": ("o", CHANGE, "authority", "client"),
    "ca.allowed": ("oa", QUERY, "authority", ""),
    "ca.certificates": ("oa", QUERY, "authority", ""),
    "ca.crl": ("o", CHANGE, "authority", ""),
    "ca.disallow": ("o", CHANGE, "authority", "client"),
    "ca.init": ("o", CHANGE, "name", ""),
    "ca.issue": ("o", CHANGE, "authority", "", "request"),
    "ca.list": ("oa", QUERY, "", ""),
    "ca.renew": ("o", CHANGE, "authority", "", "chain"),
    "ca.revoke": ("o", CHANGE, "authority", ""),
    "ca.show": ("oa", QUERY, "authority", ""),
    "cert.chains": ("oafw", QUERY, "", ""),
    "cert.export": ("oafw", QUERY, "key", ""),
    "cert.import": ("o", CHANGE, "key", "", "chain"),
    "cert.report": ("f", CHANGE, "", "", "served"),
    "cert.self-signed": ("o", CHANGE, "key", ""),
    "cert.served": ("oa", QUERY, "key", ""),
    "client.add": ("o", CHANGE, "", "name", "public_key"),
    "client.distrust-ca": ("o", CHANGE, "", "", "public_key"),
    "client.enroll": ("o", CHANGE, "", "name"),
    "client.list": ("oa", QUERY, "", ""),
    "client.remove": ("o", CHANGE, "", "name"),
    "client.rename": ("o", CHANGE, "", "name"),
    "client.revoke": ("o", CHANGE, "", ""),
    "client.revoked": ("oa", QUERY, "", ""),
    "client.role.add": ("o", CHANGE, "", "name"),
    "client.role.remove": ("o", CHANGE, "", "name"),
    "client.rotate-key": ("oafwcnd", CHANGE, "", "", "proof", "public_key"),
    "client.trust-ca": ("o", CHANGE, "", "", "public_key"),
    "events.follow": ("oafwcnd", QUERY, "", ""),
    "events.read": ("oafwcnd", QUERY, "", ""),
    "grant.add": ("o", CHANGE, "key", "client"),
    "grant.explain": ("oa", QUERY, "key", "client"),
    "grant.list": ("oa", QUERY, "key", "client"),
    "grant.remove": ("o", CHANGE, "key", "client"),
    "health.read": ("oafwcnd", QUERY, "", ""),
    "key.adopt": ("o", CHANGE, "name", "owner", "certificate"),
    "key.candidates": ("o", QUERY, "", ""),
    "key.csr": ("of", CHANGE, "name", ""),
    "key.destroy": ("o", CHANGE, "name", ""),
    "key.generate": ("o", CHANGE, "name", "owner"),
    "key.history": ("oaw", QUERY, "", ""),
    "key.list": ("oafw", QUERY, "", ""),
    "key.owner.add": ("o", CHANGE, "key", "client"),
    "key.owner.list": ("oa", QUERY, "", ""),
    "key.owner.remove": ("o", CHANGE, "key", "client"),
    "key.rename": ("o", CHANGE, "name", ""),
    "key.replace": ("o", CHANGE, "name", ""),
    "key.replace.back": ("o", CHANGE, "name", ""),
    "key.replace.switch": ("o", CHANGE, "name", "", "chain"),
    "key.show": ("oafw", QUERY, "name", ""),
    "metrics.read": ("oa", QUERY, "", ""),
    "node.certificate": ("n", CHANGE, "", "", "request"),
    "node.trust": ("n", QUERY, "", ""),
    "statement.endorse": ("o", CHANGE, "", "", "note"),
    "statement.keys": ("oafwcnd", QUERY, "", ""),
    "status": ("oa", QUERY, "", ""),
    "token.clear": ("o", CHANGE, "", ""),
    "token.list": ("oa", QUERY, "", ""),
    "token.stop": ("o", CHANGE, "", ""),
    "vault.allow": ("w", CHANGE, "", "", "proof"),
    "vault.allowed": ("w", QUERY, "", ""),
    "vault.challenge": ("w", QUERY, "", ""),
    "vault.check": ("oafwcnd", QUERY, "", ""),
    "vault.checks": ("w", QUERY, "", ""),
    "vault.confirm": ("o", CHANGE, "", "owner"),
    "vault.destroy": ("w", CHANGE, "", "", "proof"),
    "vault.disallow": ("w", CHANGE, "", "", "proof"),
    "vault.get": ("w", CHANGE, "", "", "proof"),
    "vault.keys": ("oaw", QUERY, "", ""),
    "vault.limits": ("w", CHANGE, "", "", "proof"),
    "vault.list": ("w", QUERY, "", ""),
    "vault.put": ("w", CHANGE, "", "", "proof"),
    "vault.register": ("w", CHANGE, "", "", "wrapping_proof"),
    "vault.rekey.begin": ("w", CHANGE, "", "", "wrapping_proof", "proof"),
    "vault.rekey.finish": ("w", CHANGE, "", "", "proof"),
    "vault.rekey.list": ("w", CHANGE, "", "", "proof"),
    "vault.rekey.wrap": ("w", CHANGE, "", "", "proof"),
    "vault.resume": ("w", CHANGE, "", "", "proof"),
    "vault.revoke": ("w", CHANGE, "", "", "proof"),
    "vault.show": ("w", QUERY, "", ""),
    "vault.statements": ("w", QUERY, "", ""),
    "vault.suspend": ("w", CHANGE, "", ""),
    "whoami": ("oafwcnd", QUERY, "", ""),
}


@pytest.mark.parametrize("op", DECLARED)
def test_a_request_declares_the_values_of_the_table(op: str) -> None:
    request = messages.OPERATIONS[op]
    initials, changes, key, client, *hashed = DECLARED[op]
    assert request.roles == {INITIALS[initial] for initial in str(initials)}
    assert (request.changes, request.subject) == (changes, Subject(str(key), str(client)))
    assert request.hashed == set(hashed)
    assert request.any_key == ANY_KEY


def test_only_an_enrolment_implies_other_requests_and_they_are_no_wider() -> None:
    assert [each.op() for each in messages.REQUESTS if each.implied is not Request.implied] == [
        "client.enroll"
    ]
    grants = [messages.WantedGrant("www", ["tls-server"]), messages.WantedGrant("shop", ["tls-client"])]
    request = messages.ClientEnroll("web", grants=grants)
    assert list(request.implied()) == [
        messages.GrantAdd("web", "www", ["tls-server"]), messages.GrantAdd("web", "shop", ["tls-client"])
    ]  # fmt: skip
    for each in request.implied():
        assert (each.changes, list(each.implied())) == (True, [])
        assert request.roles <= each.roles


def test_the_table_is_complete() -> None:
    assert [request.op() for request in messages.REQUESTS] == list(DECLARED)


@pytest.mark.parametrize("left_out", ["Result", "roles", "changes", "subject"])
def test_a_request_that_declares_too_little_cannot_be_defined(left_out: str) -> None:
    declared = {"Result": messages.Done, "roles": OPERATOR, "changes": False, "subject": NO_SUBJECT}
    del declared[left_out]
    with pytest.raises(TypeError, match=f"Careless does not declare `{left_out}`"):
        type(Request)("Careless", (Request,), declared)


@pytest.mark.parametrize(
    ("declared", "error"),
    [
        ({"roles": frozenset()}, "Careless: `roles` is empty"),
        ({"subject": Subject(key="nmae")}, "Careless: .* names 'nmae'"),
        ({"subject": Subject(client="owner")}, "Careless: .* names 'owner'"),
        ({"hashed": frozenset({"chian"})}, "Careless: .* names 'chian'"),
    ],
)
def test_a_contradictory_declaration_is_refused(declared: dict[str, object], error: str) -> None:
    good = {"Result": messages.Done, "roles": OPERATOR, "changes": False, "subject": NO_SUBJECT}
    members = {"__annotations__": {"name": str, "chain": str}}
    with pytest.raises(TypeError, match=error):
        type(Request)("Careless", (Request,), {**members, **good, **declared})


def test_a_member_called_roles_needs_a_field_of_another_name() -> None:
    good = {"Result": messages.Done, "roles": OPERATOR, "changes": False, "subject": NO_SUBJECT}
    with pytest.raises(TypeError, match="Careless: a member called `roles`"):
        type(Request)("Careless", (Request,), {**good, "__annotations__": {"roles": list[str]}})
    request = messages.ClientAdd("web", role_set=["owner", "node"])
    assert b'"roles":["owner","node"]' in messages.encode_request(request)
    assert fields_of(request)["target_roles"] == "owner,node"
    assert messages.ClientAdd.roles == OPERATOR


def test_bytes_are_always_hashed_in_records() -> None:
    class WithBytes(Request, tag="with.bytes"):
        Result = messages.Done
        roles = OPERATOR
        changes = True
        subject = NO_SUBJECT

        blob: bytes = b""

    assert fields_of(WithBytes(b"x")) == {
        "op": "with.bytes", "target_blob_sha256": sha256(b"x").hexdigest(),
    }  # fmt: skip
    assert fields_of(WithBytes()) == {"op": "with.bytes"}


@pytest.mark.parametrize(
    ("fields", "subject"),
    [
        ({"op": "grant.add", "target_key": "www", "target_client": "web"}, Subject("www", "web")),
        ({"op": "key.rename", "target_name": "www", "target_new_name": "shop"}, Subject("www", "")),
        ({"op": "client.rename", "target_name": "web", "target_new_name": "web2"}, Subject("", "web")),
        ({"op": "token.clear", "target_name": "main"}, Subject()),
        ({"op": "grant.list", "target_key": "www"}, Subject("www", "")),
        ({"op": "of.the-future", "target_key": "www", "target_": "x"}, Subject()),
        ({"op": "status", "target_": "x"}, Subject()),
        ({"first": 7}, Subject()),
    ],
)
def test_the_subject_of_a_record(fields: dict[str, str | int], subject: Subject) -> None:
    assert subject_of(fields) == subject


def test_agents_answer_what_is_about_keys_and_about_themselves() -> None:
    answered = {request.op() for request in messages.REQUESTS if request.agents}
    assert answered == {"cert.chains", "cert.export", "health.read", "key.list", "key.show", "whoami"}


def test_the_page_explains_every_purpose_and_group() -> None:
    assert set(PURPOSE.values) == {purpose.label for purpose in Purpose}
    assert set(PURPOSE_OR_GROUP.values) == set(GROUPS)
    assert all(PURPOSE.values.values())
