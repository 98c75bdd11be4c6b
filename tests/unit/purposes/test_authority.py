"""Constraints of an authority: their one form, what they permit, and when one set is within another."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from cryptography import x509
from hypothesis import given, strategies as st

from hsmd.errors import BadRequest
from hsmd.purposes import AuthorityConstraints, NameSet, Purpose
from hsmd.purposes.ceiling_constraints import check_constraints
from hsmd.purposes.common_names import canonical, may_be_host_or_mailbox
from hsmd.purposes.name_constraints import name_constraints
from tests.support.hostile_certificates import constraints, named, printable

AUTHORITY = frozenset({Purpose.X509_AUTHORITY})


def test_constraints_have_one_form() -> None:
    found = constraints()
    assert AuthorityConstraints.parse(found.to_json()) == found
    check_constraints(AUTHORITY, {Purpose.X509_AUTHORITY: found.document()})
    document = json.loads(found.to_json())
    for changed in (
        json.dumps(document),
        found.to_json() + " ",
        found.to_json().replace('"path_length":1', '"path_length":1,"path_length":1'),
        found.to_json().replace('["client","server"]', '["server","client"]'),
        found.to_json().replace("example.com", "Example.com", 1),
        "",
        "[]",
        "{" * 10_000,
    ):
        with pytest.raises(BadRequest):
            AuthorityConstraints.parse(changed)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("profiles", ["server", "root"]),
        ("path_length", -1),
        ("path_length", 9),
        ("leaf_s", 0),
        ("authority_s", 1 << 40),
        ("next_key", "00"),
        ("next_key", "G" * 64),
        ("name", ""),
        ("permitted", {"dns": ["a b"], "ip": [], "email": []}),
        ("permitted", {"dns": [], "ip": ["192.0.2.1/24"], "email": []}),
        ("excluded", {"dns": ["*"], "ip": [], "email": []}),
        ("common_names", ["a\u202eb"]),
        ("later", 1),
    ],
)
def test_others_are_refused(member: str, value: Any) -> None:
    document = {**constraints().document(), member: value}
    with pytest.raises(BadRequest):
        AuthorityConstraints.parse(json.dumps(document, sort_keys=True, separators=(",", ":")))


def test_a_key_that_signs_certificates_needs_constraints() -> None:
    with pytest.raises(BadRequest, match="hsmd ca init"):
        check_constraints(AUTHORITY, {})


@pytest.mark.parametrize(
    ("entry", "name", "has", "touches"),
    [
        ("example.com", "example.com", True, True),
        ("example.com", "a.b.example.com", True, True),
        ("example.com", "*.example.com", True, True),
        ("example.com", "aexample.com", False, False),
        ("example.com", "com", False, False),
        ("a.example.com", "*.example.com", False, True),
        ("a.b.example.com", "*.example.com", False, True),
        ("*", "anything.test", True, True),
    ],
)
def test_dns_names(entry: str, name: str, has: bool, touches: bool) -> None:
    found = NameSet.of("x", [entry])
    assert (found.has_dns(name), found.touches_dns(name)) == (has, touches)


@pytest.mark.parametrize(
    ("entry", "mailbox", "has"),
    [
        ("example.com", "a@example.com", True),
        ("example.com", "a@mail.example.com", False),
        (".example.com", "a@mail.example.com", True),
        (".example.com", "a@example.com", False),
        ("a@example.com", "a@example.com", True),
        ("a@example.com", "A@example.com", False),
        ("*", "a@anything.test", True),
    ],
)
def test_mailboxes(entry: str, mailbox: str, has: bool) -> None:
    assert NameSet.of("x", email=[entry]).has_email(mailbox) is has


NETWORKS = st.integers(0, 32).flatmap(
    lambda length: st.integers(0, (1 << length) - 1).map(lambda n: f"{_dotted(n << (32 - length))}/{length}")
)


def _dotted(number: int) -> str:
    return ".".join(str(byte) for byte in number.to_bytes(4))


LABELS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map(".".join)
SETS = st.builds(
    lambda dns, ip: NameSet.of("x", dns, ip), st.lists(LABELS, max_size=3), st.lists(NETWORKS, max_size=3)
)


@given(SETS, SETS, LABELS, st.ip_addresses(v=4))
def test_a_set_that_covers_another_has_all_its_names(
    outer: NameSet, inner: NameSet, name: str, address: Any
) -> None:
    assert outer.covers(outer)
    if outer.covers(inner):
        assert outer.has_dns(name) or not inner.has_dns(name)
        assert outer.has_address(address) or not inner.has_address(address)


def test_the_extension_closes_kinds_of_which_nothing_is_permitted() -> None:
    found = name_constraints(NameSet.of("x", ["example.com"]), NameSet.of("x", ["secret.example.com"]))
    assert x509.DNSName("example.com") in (found.permitted_subtrees or [])
    assert x509.RFC822Name("invalid") in (found.permitted_subtrees or [])
    assert [str(each.value) for each in found.excluded_subtrees or []] == [
        "secret.example.com", "0.0.0.0/0", "::/0",
    ]  # fmt: skip
    everything = name_constraints(NameSet.of("x", ["*"], ["0.0.0.0/0", "::/0"], ["*"]), NameSet())
    assert [str(each.value) for each in everything.permitted_subtrees or []] == ["0.0.0.0/0", "::/0"]
    assert everything.excluded_subtrees is None


@pytest.mark.parametrize(
    "name",
    [
        b"\x30\x00",
        b"\x00\x00",
        bytes.fromhex("300a06082a8648ce3d040302"),
        named(" a").public_bytes(),
        named("a ").public_bytes(),
        named("a  b").public_bytes(),
        named("a\u00a0b").public_bytes(),
        named("\u034f").public_bytes(),
        printable(named("a")).public_bytes(),
        x509.Name([*named("a"), *named("b")]).public_bytes(),
        x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "a")]).public_bytes(),
        x509.Name(
            [x509.RelativeDistinguishedName([*named("a"), x509.NameAttribute(x509.NameOID.SURNAME, "b")])]
        ).public_bytes(),
        named("a").public_bytes() + b"\x05\x00",
    ],
)
def test_an_authority_has_one_common_name(name: bytes) -> None:
    """What is no name, or one that verifiers compare in another way, is never in a ceiling."""
    assert AuthorityConstraints.parse(
        msgspec.structs.replace(constraints(), name=named("a b").public_bytes()).to_json()
    )
    with pytest.raises(BadRequest, match="name: "):
        AuthorityConstraints.parse(msgspec.structs.replace(constraints(), name=name).to_json())


def test_any_common_name_covers_none_that_may_be_a_host() -> None:
    """An authority with `*` refuses hosts, and so do those below it."""
    outer = constraints(common_names=["*", "db.example.net"])
    for within in (["*"], ["alice"], ["*", "alice"], ["db.example.net"]):
        assert constraints(common_names=within).within(outer), within
    for beyond in HOSTS:
        assert not constraints(common_names=["*", beyond]).within(outer), beyond
        assert not constraints(common_names=[beyond]).within(outer), beyond


HOSTS = [
    "www.victim.example", "admin@victim.example", "::1", "localhost", "LOCALHOST", "*victim", "www\u3002victim",
    "www\uff0evictim", "www\uff61victim", "victim\u2024example", "admin\uff20victim", "a\uff1a1", "\uff0avictim",
]  # fmt: skip


@pytest.mark.parametrize("name", [*HOSTS, "*"])
def test_hosts_and_mailboxes_are_known_in_every_form(name: str) -> None:
    assert may_be_host_or_mailbox(name)


@pytest.mark.parametrize("name", ["alice", "Alice Example", "O'Neil-Smith", "\u00e9ric"])
def test_people_are_no_hosts(name: str) -> None:
    assert not may_be_host_or_mailbox(name)


@pytest.mark.parametrize(
    "other",
    [
        "EXAMPLE authority 1",
        " Example  authority\u00a01 ",
        "Example authority \ufe0f1",
        "\uff25xample authority 1",
    ],
)
def test_names_that_some_verifier_takes_for_the_same_are_the_same(other: str) -> None:
    assert canonical(other) == canonical("Example authority 1")
    assert canonical("Example authority 2") != canonical("Example authority 1")
