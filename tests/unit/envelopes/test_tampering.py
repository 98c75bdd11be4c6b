"""Whatever is changed in an envelope, it does not open; and once a private key is used, every refusal has one text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hsmd.envelopes import rsa_aes_kwp
from hsmd.envelopes.canonical_json import encode
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Header, Kind, Suite
from hsmd.envelopes.sealing import open_envelope
from hsmd.errors import EnvelopeInvalid
from tests.support import hpke_reference as reference
from tests.support.envelopes import RSA_SUITES, contents, recipient, sealed, sealed_secret

MASKS = (0x01, 0x20, 0x80, 0xFF)
DOES_NOT_OPEN = EnvelopeInvalid.default_text
SECRET = bytes(range(32))


def refusal(data: bytes, suite: Suite) -> str:
    """The text with which an envelope is refused. AssertionError if it opens."""
    try:
        open_envelope(Envelope.decode(data), recipient(suite))
    except EnvelopeInvalid as error:
        return error.text
    raise AssertionError("the altered envelope opened")


def whole(suite: Suite, kind: Kind) -> bytes:
    """An envelope that opens."""
    envelope = sealed(suite) if kind is Kind.PRIVATE_KEY else sealed_secret(suite, SECRET)
    assert open_envelope(envelope, recipient(suite)) in (contents()["P-256"], SECRET)
    return envelope.encode()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("suite", Suite)
def test_every_single_byte_change_is_refused(suite: Suite, kind: Kind) -> None:
    data = whole(suite, kind)
    body = len(data) - len(Envelope.decode(data).body)
    for position in range(len(data)):
        for mask in MASKS:
            altered = bytearray(data)
            altered[position] ^= mask
            text = refusal(bytes(altered), suite)
            assert position < body or text == DOES_NOT_OPEN


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("suite", Suite)
def test_truncations_and_extensions_are_refused(suite: Suite, kind: Kind) -> None:
    data = whole(suite, kind)
    for length in range(len(data)):
        refusal(data[:length], suite)
        refusal(data[len(data) - length :], suite)
    for more in (1, 7, 8, 16, 40, 256):
        refusal(data + bytes(more), suite)
        refusal(data + data[-more:], suite)
        refusal(data[:more] + data, suite)


@pytest.mark.parametrize("suite", Suite)
def test_a_header_of_another_envelope_is_refused(suite: Suite) -> None:
    """Every member is bound: those that the key would betray, and those that only the header knows."""
    envelope = sealed_secret(suite, SECRET)
    header = envelope.header
    others = [
        replace(header, about={**header.about, "owner": "bert"}),
        replace(header, about={**header.about, "record": 8}),
        replace(header, about={name: value for name, value in header.about.items() if name != "modes"}),
        replace(header, about={**header.about, "more": True}),
        replace(header, about={}),
        replace(header, kind=Kind.PRIVATE_KEY, spki=bytes(32)),
    ]
    for other in others:
        assert refusal(Envelope(other, envelope.body).encode(), suite) == DOES_NOT_OPEN
    assert open_envelope(Envelope(header, envelope.body), recipient(suite)) == SECRET


@pytest.mark.parametrize("suite", Suite)
def test_bodies_of_two_envelopes_are_not_exchanged(suite: Suite) -> None:
    """Two records of one owner under one key: neither key can be put in the other's place."""
    one, two = sealed_secret(suite, SECRET), sealed_secret(suite, bytes(32))
    private = sealed(suite)
    other = replace(two.header, about={"record": 8})
    assert refusal(Envelope(private.header, one.body).encode(), suite) == DOES_NOT_OPEN
    assert refusal(Envelope(one.header, private.body).encode(), suite) == DOES_NOT_OPEN
    assert refusal(Envelope(other, one.body).encode(), suite) == DOES_NOT_OPEN


@pytest.mark.parametrize("suite", Suite)
def test_every_cut_between_two_envelopes_is_refused(suite: Suite) -> None:
    """The front of one and the end of another, both sealed under the same header."""
    one, two = sealed_secret(suite, SECRET), sealed_secret(suite, SECRET)
    for cut in range(1, len(one.body)):
        mixed = one.body[:cut] + two.body[cut:]
        if mixed not in (one.body, two.body):
            assert refusal(Envelope(one.header, mixed).encode(), suite) == DOES_NOT_OPEN


# --- encapsulated keys that are no good points ---

SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
"""Points of X25519 whose secret is zero for every private key."""


@pytest.mark.parametrize("point", SMALL_ORDER)
@pytest.mark.parametrize("suite", [Suite.HPKE_X25519, Suite.HPKE_MLKEM768_X25519])
def test_x25519_points_of_small_order_are_refused(suite: Suite, point: str) -> None:
    envelope = sealed_secret(suite, SECRET)
    end = 32 if suite is Suite.HPKE_X25519 else 1120
    body = envelope.body[: end - 32] + bytes.fromhex(point) + envelope.body[end:]
    assert refusal(Envelope(envelope.header, body).encode(), suite) == DOES_NOT_OPEN


def test_x25519_with_a_small_order_point_and_a_fitting_ciphertext_is_refused() -> None:
    """With such a point anyone knows the shared secret, so the ciphertext can fit (RFC 9180, section 7.1.4)."""
    envelope = sealed_secret(Suite.HPKE_X25519, SECRET)
    key = recipient(Suite.HPKE_X25519).public_key().public_bytes_raw()  # type: ignore[union-attr]
    enc = bytes(32)
    shared = reference.dhkem_x25519(bytes(32), enc, key)
    made = reference.schedule(reference.X25519, reference.AES_256_GCM, enc, shared, envelope.header.encode())
    forged = Envelope(envelope.header, enc + made.seal(SECRET))
    assert refusal(forged.encode(), Suite.HPKE_X25519) == DOES_NOT_OPEN


@pytest.mark.parametrize("form", ["infinity", "not on the curve", "compressed", "hybrid", "beyond the field"])
def test_p_256_points_in_another_form_are_refused(form: str) -> None:
    envelope = sealed_secret(Suite.HPKE_P256, SECRET)
    point, rest = envelope.body[:65], envelope.body[65:]
    x, y = point[1:33], point[33:]
    other = {
        "infinity": bytes(1),
        "not on the curve": point[:-1] + bytes([point[-1] ^ 1]),
        "compressed": bytes([2 + (y[-1] & 1)]) + x,
        "hybrid": bytes([6 + (y[-1] & 1)]) + x + y,
        "beyond the field": b"\x04" + b"\xff" * 64,
    }[form]
    for body in (other + rest, other.ljust(65, b"\0") + rest):
        assert refusal(Envelope(envelope.header, body).encode(), Suite.HPKE_P256) == DOES_NOT_OPEN


# --- the parts of the RSA suites ---


@pytest.mark.parametrize("suite", RSA_SUITES)
def test_parts_are_not_exchanged(suite: Suite) -> None:
    one, two = sealed_secret(suite, SECRET), sealed_secret(suite, bytes(32))
    (a, b), header = (split(one, suite), split(two, suite)), one.header
    mixtures = [
        (b.oaep, a.kwp, a.tag), (a.oaep, b.kwp, a.tag), (a.oaep, a.kwp, b.tag), (b.oaep, b.kwp, a.tag),
        (a.oaep, b.kwp, b.tag), (b.oaep, a.kwp, b.tag), (a.oaep, a.tag, a.kwp), (a.oaep, a.kwp, a.kwp),
        (a.oaep, b"", a.tag), (a.oaep, a.kwp + a.kwp, a.tag), (a.oaep, a.kwp, b""),
    ]  # fmt: skip
    for oaep, kwp, tag in mixtures:
        refusal(rsa_aes_kwp.join(header, oaep, kwp, tag).encode(), suite)
    assert open_envelope(rsa_aes_kwp.join(header, a.oaep, a.kwp, a.tag), recipient(suite)) == SECRET


@pytest.mark.parametrize("suite", RSA_SUITES)
def test_the_tag_is_not_taken_for_the_key(suite: Suite) -> None:
    """The tag contains 32 bytes that everyone can compute; as the key of an envelope they would be no secret."""
    parts = split(sealed_secret(suite, SECRET), suite)
    header = sealed_secret(suite, SECRET).header
    assert len(parts.tag) == len(parts.kwp)
    forged = rsa_aes_kwp.join(header, parts.oaep, parts.tag, parts.tag)
    assert refusal(forged.encode(), suite) == DOES_NOT_OPEN


@pytest.mark.parametrize("suite", RSA_SUITES)
def test_a_number_beyond_the_modulus_is_refused(suite: Suite) -> None:
    """The same RSA ciphertext plus the modulus (RFC 8017, section 5.1.2)."""
    key = recipient(suite).public_key()
    modulus = key.public_numbers().n  # type: ignore[union-attr]
    for _ in range(200):
        envelope = sealed_secret(suite, SECRET)
        beyond = int.from_bytes(envelope.body[:256], "big") + modulus
        if beyond < 1 << 2048:
            break
    body = beyond.to_bytes(256, "big") + envelope.body[256:]
    assert refusal(Envelope(envelope.header, body).encode(), suite) == DOES_NOT_OPEN


@pytest.mark.parametrize("suite", RSA_SUITES)
def test_an_aes_key_of_another_length_is_refused(suite: Suite) -> None:
    key, header = recipient(suite).public_key(), sealed_secret(suite, SECRET).header
    for length in (0, 16, 24, 31, 33):
        aes_key = bytes(length)
        oaep = rsa_aes_kwp.oaep_encrypt(key, suite, aes_key)  # type: ignore[arg-type]
        usable = bytes(max(16, length // 8 * 8)) if length in (16, 24) else bytes(32)
        kwp = rsa_aes_kwp.kwp_wrap(usable, SECRET)
        tag = rsa_aes_kwp.kwp_wrap(usable, rsa_aes_kwp.tag_content(header, oaep, kwp))
        assert refusal(rsa_aes_kwp.join(header, oaep, kwp, tag).encode(), suite) == DOES_NOT_OPEN


def split(envelope: Envelope, suite: Suite) -> rsa_aes_kwp.Parts:
    return rsa_aes_kwp.split(envelope, recipient(suite).public_key())  # type: ignore[arg-type]


def test_a_header_with_other_spacing_is_refused() -> None:
    """The header is bound as bytes; that it has one form keeps anyone from writing a second one."""
    envelope = sealed(Suite.HPKE_P256)
    loose = envelope.header.encode().replace(b",", b", ")
    with pytest.raises(EnvelopeInvalid):
        Header.decode(loose)
    assert encode({"a": 1, "b": 2}) == b'{"a":1,"b":2}'
