"""Ceilings: the object in the token that fixes what a key may do."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, strategies as st

from hsmd.algorithms import KeyType, SignatureScheme
from hsmd.daemon.worker import ceilings
from hsmd.errors import BadRequest, PurposeMismatch
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.purposes import Purpose, PurposeCheck

_KEY = ec.generate_private_key(ec.SECP256R1())
P256 = PublicHalf.of(_KEY.public_key())
assert P256 is not None
REQUEST = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(_KEY, SHA256()).tbs_certrequest_bytes


def document(**changes: object) -> bytes:
    values = {
        "version": 1, "key": P256.digest.hex(), "cka_id": "3a0f", "purposes": ["tls13-server"],
        "public_key": base64.b64encode(P256.spki).decode(),
    }  # fmt: skip
    return json.dumps({**values, **changes}).encode()


def test_a_ceiling_is_read() -> None:
    ceiling = ceilings.parse(document())
    assert ceiling is not None
    assert (ceiling.half.digest, ceiling.cka_id, ceiling.purposes) == (
        P256.digest,
        b"\x3a\x0f",
        {Purpose.TLS13_SERVER},
    )


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"{}",
        b"[" * 4000,
        b"\xff",
        document(version=2),
        document(key="00" * 32),
        document(key=P256.digest.hex().upper()),
        document(cka_id="3"),
        document(purposes=[]),
        document(purposes=["anything"]),
        document(purposes=["tls12-rsa-premaster"]),
        document(purposes=["tls13-server", "sign-digest"]),
        document(public_key="AAAA"),
        document(extra=1),
    ],
)
def test_other_values_are_not_a_ceiling(value: bytes) -> None:
    assert ceilings.parse(value) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_as_a_ceiling_or_none(value: bytes) -> None:
    assert ceilings.parse(value) is None


# Version 2


RSA = PublicHalf.of(rsa.generate_private_key(65537, 2048).public_key())
assert RSA is not None
UNWRAPS = frozenset({Purpose.UNWRAP_KEY})
SIGNS = frozenset({Purpose.TLS13_SERVER, Purpose.X509_REQUEST})
NAMES = {Purpose.X509_REQUEST: {"unknown to every release": ["example.org"]}}


def test_what_version_1_holds_is_written_as_before() -> None:
    value = ceilings.encode(P256, b"\x3a\x0f", SIGNS)
    assert value == (
        b'{"version":1,"key":"%b","cka_id":"3a0f","purposes":["tls13-server","x509-request"],"public_key":"%b"}'
        % (P256.digest.hex().encode(), base64.b64encode(P256.spki))
    )
    assert b'"version":1,' in ceilings.encode(P256, b"", frozenset({Purpose.STATEMENT}))


@pytest.mark.parametrize(
    ("half", "purposes", "constraints"), [(RSA, UNWRAPS, {}), (P256, SIGNS, NAMES), (RSA, SIGNS, NAMES)]
)
def test_what_it_does_not_hold_is_version_2(half, purposes, constraints) -> None:
    value = ceilings.encode(half, b"\x3a\x0f", purposes, constraints)
    assert json.loads(value)["version"] == 2
    ceiling = ceilings.parse(value)
    assert ceiling is not None
    assert (ceiling.half.digest, ceiling.cka_id, ceiling.purposes, ceiling.constraints, ceiling.value) == (
        half.digest,
        b"\x3a\x0f",
        purposes,
        constraints,
        value,
    )


def test_a_ceiling_of_version_2_has_one_form() -> None:
    """Altered on the token, spelt otherwise, or with more or less than it needs: it is no ceiling."""
    good = ceilings.encode(P256, b"\x3a\x0f", SIGNS, NAMES)
    unwrapping = ceilings.encode(RSA, b"\x3a\x0f", UNWRAPS)
    assert ceilings.parse(good) and ceilings.parse(unwrapping)
    for altered in (
        good.replace(b'"version":2', b'"version":1'),
        good.replace(b'"version":2', b'"version":3'),
        good.replace(b",", b", ", 1),
        good.replace(b'"x509-request":{', b'"tls12-server":{'),
        good.replace(b'"x509-request":{', b'"tls-server":{'),
        good.replace(b'"x509-request":{', b'"anything":{'),
        good.replace(b'{"unknown to every release":["example.org"]}', b"{}"),
        good.replace(b'{"unknown to every release":["example.org"]}', b'["example.org"]'),
        good.replace(b'"unknown', b'"a":1,"a":2,"unknown'),
        good.replace(b'["example.org"]', b"[1e2]"),
        good[:-1] + b',"constraints":{}}',
        good[:-1] + b',"more":1}',
        document(version=2),
        unwrapping.replace(b'"version":2', b'"version":1'),
        unwrapping.replace(b'["unwrap-key"]', b'["unwrap-key","tls12-rsa-premaster"]'),
        unwrapping.replace(b'["unwrap-key"]', b'["unwrap-key","tls13-server"]'),
        unwrapping.replace(b'["unwrap-key"]', b'["tls12-rsa-premaster"]'),
        unwrapping.replace(b'["unwrap-key"]', b'["unwrap-key","unwrap-key"]'),
        unwrapping[:-1] + b',"constraints":{}}',
    ):
        assert altered not in (good, unwrapping)
        assert ceilings.parse(altered) is None, altered


def test_ceilings_that_differ_in_any_right_contradict_each_other() -> None:
    plain = ceilings.parse(ceilings.encode(P256, b"\x3a\x0f", SIGNS))
    constrained = ceilings.parse(ceilings.encode(P256, b"\x3a\x0f", SIGNS, NAMES))
    assert plain is not None and constrained is not None
    assert plain.contradicts(constrained) and constrained.contradicts(plain)
    assert not plain.contradicts(plain) and not constrained.contradicts(constrained)


def test_a_constraint_that_is_not_known_permits_nothing() -> None:
    check = PurposeCheck(KeyType.P256, P256.spki, NAMES)
    free = PurposeCheck(KeyType.P256, P256.spki)
    with pytest.raises(PurposeMismatch, match="x509-request in a way that this release does not know"):
        check.check(Purpose.X509_REQUEST, SignatureScheme.ECDSA_SHA256, REQUEST)
    free.check(Purpose.X509_REQUEST, SignatureScheme.ECDSA_SHA256, REQUEST)
    verify = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)
    check.check(Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA256, verify)


def test_no_key_gets_a_constraint_that_is_not_known() -> None:
    with pytest.raises(BadRequest, match="constraints"):
        ceilings.write(None, P256, b"\x3a\x0f", SIGNS, NAMES)
    with pytest.raises(BadRequest, match="tls12-client is not among the key's purposes"):
        ceilings.write(None, P256, b"\x3a\x0f", SIGNS, {Purpose.TLS12_CLIENT: {"a": 1}})


# Allowed names, the constraint of x509-request


ALLOWED = {Purpose.X509_REQUEST: {"names": ["*.example.org", "example.org"]}}


def request_for(name: str) -> bytes:
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, critical=False)
    return builder.sign(_KEY, SHA256()).tbs_certrequest_bytes


def test_allowed_names_are_enforced_beside_the_key() -> None:
    ceiling = ceilings.parse(ceilings.encode(P256, b"\x01", SIGNS, ALLOWED))
    assert ceiling is not None
    check = PurposeCheck(KeyType.P256, P256.spki, ceiling.constraints)
    for name in ("example.org", "www.example.org"):
        check.check(Purpose.X509_REQUEST, SignatureScheme.ECDSA_SHA256, request_for(name))
    for name in ("example.com", "a.b.example.org"):
        with pytest.raises(PurposeMismatch, match="is not allowed"):
            check.check(Purpose.X509_REQUEST, SignatureScheme.ECDSA_SHA256, request_for(name))
    stranger = PurposeCheck(KeyType.P256, b"another key", ceiling.constraints)
    with pytest.raises(PurposeMismatch, match="another key"):
        stranger.check(Purpose.X509_REQUEST, SignatureScheme.ECDSA_SHA256, request_for("example.org"))


@pytest.mark.parametrize(
    "names",
    [["example.org", "*.example.org"], ["EXAMPLE.org"], ["a.org", "a.org"], [], ["a b"], "a.org", [1]],
)
def test_names_in_another_form_permit_nothing(names: object) -> None:
    constraints = {Purpose.X509_REQUEST: {"names": names}}
    check = PurposeCheck(KeyType.P256, P256.spki, constraints)
    with pytest.raises(PurposeMismatch, match="does not know"):
        check.check(Purpose.X509_REQUEST, SignatureScheme.ECDSA_SHA256, request_for("example.org"))
    with pytest.raises(BadRequest, match=r"constraints|names"):
        ceilings.write(None, P256, b"\x01", SIGNS, constraints)


@pytest.mark.parametrize("unbound", [Purpose.SIGN_MESSAGE, Purpose.SIGN_DIGEST])
def test_a_key_that_signs_anything_cannot_be_constrained(unbound: Purpose) -> None:
    purposes = frozenset({unbound, Purpose.X509_REQUEST})
    with pytest.raises(BadRequest, match="can sign anything"):
        ceilings.write(None, P256, b"\x01", purposes, ALLOWED)
    assert ceilings.parse(ceilings.encode(P256, b"\x01", purposes, ALLOWED)) is None
