"""Public keys in their one form: what is accepted has no second form, and is a key that can be used."""

from __future__ import annotations

from hashlib import sha256

import pytest
from asn1crypto.keys import PublicKeyInfo
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, strategies as st

from hsmd.envelopes.vault import public_keys
from hsmd.envelopes.vault.public_keys import MAX_SPKI_BYTES, PublicKeyFacts, canonical_spki
from hsmd.errors import EnvelopeInvalid
from tests.support.envelopes import rsa_key
from tests.support.vault_formats import spki

FIELD = 2**255 - 19
KEYS = {
    "rsa-2048": rsa_key(0).public_key(),
    "rsa-3072": rsa_key(0, 3072).public_key(),
    "p256": ec.generate_private_key(ec.SECP256R1()).public_key(),
    "p384": ec.generate_private_key(ec.SECP384R1()).public_key(),
    "p521": ec.generate_private_key(ec.SECP521R1()).public_key(),
    "ed25519": ed25519.Ed25519PrivateKey.generate().public_key(),
    "x25519": x25519.X25519PrivateKey.generate().public_key(),
}
SIGN = {"rsa-2048", "rsa-3072", "p256", "p384", "p521", "ed25519"}
OPEN = {"rsa-2048", "rsa-3072", "p256", "x25519"}
ED25519_HEAD, X25519_HEAD = spki(KEYS["ed25519"])[:-32], spki(KEYS["x25519"])[:-32]


@pytest.mark.parametrize("kind", KEYS)
def test_the_facts_of_a_key(kind: str) -> None:
    der = spki(KEYS[kind])
    expected = PublicKeyFacts(der, sha256(der).digest(), kind, kind in SIGN, kind in OPEN)
    assert canonical_spki(der) == expected


@pytest.mark.parametrize("kind", KEYS)
def test_what_is_accepted_is_its_own_only_form(kind: str) -> None:
    """Every byte that is changed gives no key, or another one, which is then written in exactly this way."""
    der = spki(KEYS[kind])
    for position in range(len(der)):
        for mask in (0x01, 0x20, 0x80, 0xFF):
            altered = bytearray(der)
            altered[position] ^= mask
            try:
                found = canonical_spki(bytes(altered))
            except EnvelopeInvalid:
                continue
            assert found.digest != sha256(der).digest()
            again = public_keys.load(found.der)
            assert again.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == bytes(altered)


@pytest.mark.parametrize("kind", KEYS)
def test_truncations_and_extensions_are_refused(kind: str) -> None:
    der = spki(KEYS[kind])
    for other in (*(der[:length] for length in range(len(der))), der + b"\0", b"\0" + der, der + der):
        with pytest.raises(EnvelopeInvalid, match="public key"):
            canonical_spki(other)


def test_rsa_without_parameters_and_for_pss_only_is_refused() -> None:
    """Both forms are read by the library, and written in the one form that is accepted."""
    der = spki(KEYS["rsa-2048"])
    null, absent = (
        bytes.fromhex("300d06092a864886f70d0101010500"),
        bytes.fromhex("300b06092a864886f70d010101"),
    )
    body = der[4 + len(null) :]
    bare = b"\x30\x82" + (len(absent) + len(body)).to_bytes(2, "big") + absent + body
    assert der == b"\x30\x82" + (len(null) + len(body)).to_bytes(2, "big") + null + body
    pss = bytes.fromhex("300b06092a864886f70d01010a")
    for other in (bare, b"\x30\x82" + (len(pss) + len(body)).to_bytes(2, "big") + pss + body):
        with pytest.raises(EnvelopeInvalid):
            canonical_spki(other)


@pytest.mark.parametrize("kind", ["p256", "p384", "p521"])
def test_points_in_another_form_are_refused(kind: str) -> None:
    key = KEYS[kind]
    assert isinstance(key, ec.EllipticCurvePublicKey)
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    size = (len(point) - 1) // 2
    parity = point[-1] & 1
    forms = {
        "compressed": key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint),
        "hybrid": bytes([6 + parity]) + point[1:],
        "infinity": b"\0",
        "not on the curve": point[:-1] + bytes([point[-1] ^ 1]),
        "beyond the field": b"\x04" + b"\xff" * (2 * size),
    }
    for form in forms.values():
        with pytest.raises(EnvelopeInvalid):
            canonical_spki(with_point(kind, form))
    assert canonical_spki(with_point(kind, point)).kind == kind


def with_point(kind: str, point: bytes) -> bytes:
    """The SubjectPublicKeyInfo of the curve with these bytes as its point."""
    info = PublicKeyInfo.load(spki(KEYS[kind]))
    info["public_key"] = type(info["public_key"])(point)
    return bytes(info.dump(force=True))


def test_explicit_parameters_of_a_curve_are_refused() -> None:
    """The same curve, written out; CVE-2020-0601 was about a library that believed such parameters."""
    names = {
        "p": 2**256 - 2**224 + 2**192 + 2**96 - 1,
        "n": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    }
    curve = ec.SECP256R1()
    base = (
        ec.derive_private_key(1, curve)
        .public_key()
        .public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    )
    b = bytes.fromhex("5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b")
    a = (names["p"] - 3).to_bytes(32, "big")
    der = sequence(
        sequence(
            bytes.fromhex("06072a8648ce3d0201"),
            sequence(
                b"\x02\x01\x01",
                sequence(bytes.fromhex("06072a8648ce3d0101"), integer(names["p"])),
                sequence(octets(a), octets(b)),
                octets(base),
                integer(names["n"]),
                b"\x02\x01\x01",
            ),
        ),
        b"\x03\x42\0" + base,
    )
    with pytest.raises(EnvelopeInvalid):
        canonical_spki(der)


def sequence(*parts: bytes) -> bytes:
    content = b"".join(parts)
    return b"\x30" + length(content) + content


def octets(content: bytes) -> bytes:
    return b"\x04" + length(content) + content


def integer(number: int) -> bytes:
    content = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return b"\x02" + length(content) + content


def length(content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([size])
    return bytes([0x81, size]) if size < 0x100 else b"\x82" + size.to_bytes(2, "big")


def rsa_spki(n: int, e: int) -> bytes:
    """Of any numbers, also those of which `cryptography` makes no key."""
    key = sequence(integer(n), integer(e))
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    return sequence(algorithm, b"\x03" + length(b"\0" + key) + b"\0" + key)


def test_rsa_numbers_that_are_slow_or_useless_are_refused() -> None:
    n = rsa_key(0).public_key().public_numbers().n
    assert canonical_spki(rsa_spki(n, 65537)).kind == "rsa-2048"
    assert canonical_spki(rsa_spki(n, 2**64 - 1)).kind == "rsa-2048"
    for exponent in (0, 1, 2, 4, 65536, 2**64 + 1, n - 2, n, n + 2):
        with pytest.raises(EnvelopeInvalid):
            canonical_spki(rsa_spki(n, exponent))
    for modulus in (n + 1, n >> 1, 2**2047, 0, 1):
        with pytest.raises(EnvelopeInvalid):
            canonical_spki(rsa_spki(modulus, 65537))


def test_long_rsa_keys_have_no_exponent_that_makes_them_slow() -> None:
    """The daemon verifies with keys that its clients choose, in its event loop."""
    for bits, exponent in ((4096, 2**64 - 1), (4104, 65537), (8192, 65537)):
        assert canonical_spki(rsa_spki(2**bits - 1, exponent)).kind == f"rsa-{bits}"
    for bits, exponent in ((4104, 65539), (8192, 2**32 + 1), (8192, 2**64 - 1)):
        with pytest.raises(EnvelopeInvalid, match="exponent 65537"):
            canonical_spki(rsa_spki(2**bits - 1, exponent))


def test_the_sizes_of_rsa_keys_are_bounded() -> None:
    for bits in (2048, 3072, 8192):
        assert canonical_spki(rsa_spki(2**bits - 1, 3)).kind == f"rsa-{bits}"
    for bits in (1024, 2047, 8193, 16384):
        with pytest.raises(EnvelopeInvalid):
            canonical_spki(rsa_spki(2**bits - 1, 3))


@pytest.mark.parametrize(
    "other",
    [
        spki(ec.generate_private_key(ec.SECP256K1()).public_key()),
        spki(ec.generate_private_key(ec.BrainpoolP256R1()).public_key()),
        spki(ed448.Ed448PrivateKey.generate().public_key()),
        spki(x448.X448PrivateKey.generate().public_key()),
        spki(dsa.generate_private_key(1024).public_key()),
    ],
    ids=["secp256k1", "brainpool", "Ed448", "X448", "DSA"],
)
def test_other_kinds_of_keys_are_refused(other: bytes) -> None:
    with pytest.raises(EnvelopeInvalid, match="public key"):
        canonical_spki(other)


# --- edwards25519 and Curve25519: points that anyone can sign or open for, and second forms ---


def edwards_small() -> list[int]:
    """y of all points whose order divides 8, from the equation of the curve (RFC 8032, section 5.1)."""
    d = -121665 * pow(121666, -1, FIELD) % FIELD
    root = pow(2, (FIELD - 1) // 4, FIELD)
    found = {1, FIELD - 1, 0}
    # Points of order 8 double to order 4, (+-i, 0), so y^2 = -x^2 there: with x^2 = -y^2 the equation is d y^4 + 2 y^2 - 1 = 0.
    inverse = pow(d, -1, FIELD)
    for sign in (1, -1):
        square = (sign * sqrt(1 + d, root) - 1) * inverse % FIELD
        y = sqrt(square, root)
        if y * y % FIELD == square:
            found |= {y, FIELD - y}
    assert len(found) == 5
    return sorted(found)


def sqrt(square: int, root: int) -> int:
    candidate = pow(square % FIELD, (FIELD + 3) // 8, FIELD)
    return candidate if candidate * candidate % FIELD == square % FIELD else candidate * root % FIELD


def forms(number: int) -> list[bytes]:
    """All 32 bytes that stand for a coordinate: with and without the highest bit, reduced or not."""
    return [
        (each + bit).to_bytes(32, "little")
        for each in (number, number + FIELD)
        for bit in (0, 1 << 255)
        if each < 1 << 255
    ]


@pytest.mark.parametrize("y", edwards_small())
def test_ed25519_keys_of_small_order_are_refused(y: int) -> None:
    for form in forms(y):
        with pytest.raises(EnvelopeInvalid, match="small order"):
            canonical_spki(ED25519_HEAD + form)


def test_such_a_key_would_verify_a_signature_that_anyone_makes() -> None:
    """Why: under the neutral point, R = S B verifies for every message, with S = 0 and R the neutral point."""
    neutral = (1).to_bytes(32, "little")
    key = ed25519.Ed25519PublicKey.from_public_bytes(neutral)
    key.verify(neutral + bytes(32), b"any message")


@pytest.mark.parametrize("y", edwards_small())
def test_x25519_keys_of_small_order_are_refused(y: int) -> None:
    """The same points on Curve25519, u = (1 + y) / (1 - y) (RFC 7748, section 4.1); and the one of its twist, u = -1."""
    u = (1 + y) * pow(1 - y, -1, FIELD) % FIELD if y != 1 else FIELD - 1
    for form in forms(u):
        with pytest.raises(EnvelopeInvalid, match="small order"):
            canonical_spki(X25519_HEAD + form)


def test_25519_keys_have_no_second_form() -> None:
    for head in (ED25519_HEAD, X25519_HEAD):
        for number in range(2, 19):
            with pytest.raises(EnvelopeInvalid, match="reduced"):
                canonical_spki(head + (FIELD + number).to_bytes(32, "little"))
    raw = KEYS["x25519"].public_bytes_raw()  # type: ignore[union-attr]
    with pytest.raises(EnvelopeInvalid, match="reduced"):
        canonical_spki(X25519_HEAD + raw[:-1] + bytes([raw[-1] | 0x80]))


@given(st.binary(max_size=300) | st.binary(max_size=80).map(lambda end: spki(KEYS["p256"])[:26] + end))
def test_any_bytes_are_a_key_in_its_form_or_refused(data: bytes) -> None:
    try:
        found = canonical_spki(data)
    except EnvelopeInvalid:
        return
    assert found.der == data


def test_the_size_is_bounded_before_anything_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_keys, "load_der_public_key", None)
    with pytest.raises(EnvelopeInvalid, match=str(MAX_SPKI_BYTES)):
        canonical_spki(b"\x30\x82\xff\xff" + bytes(70_000))
