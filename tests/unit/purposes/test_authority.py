"""Constraints of an authority: their one form, what they permit, and when one set is within another."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, strategies as st

from hsmd.errors import BadRequest
from hsmd.purposes import AuthorityConstraints, NameSet, Purpose
from hsmd.purposes.ceiling_constraints import check_constraints
from hsmd.purposes.name_constraints import name_constraints
from tests.support.hostile_certificates import constraints

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
