"""Key reference files: a written reference is read again, and anything else is refused."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, strategies as st

from hsmd.client.keyref import LABEL, MAX_DER_BYTES, KeyReference, decode, encode
from hsmd.errors import BadRequest

KEYS = [
    key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for key in (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    )
]
REFERENCE = KeyReference("www", KEYS[0])


def pem(der: bytes, label: str = LABEL) -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


def der_of(reference: KeyReference) -> bytes:
    return base64.b64decode("".join(encode(reference).splitlines()[1:-1]))


@given(name=st.text(min_size=1, max_size=16), key=st.sampled_from(KEYS))
def test_a_written_reference_is_read_again(name: str, key: bytes) -> None:
    reference = KeyReference(name, key)
    if not 1 <= len(name.encode("utf-8", "surrogatepass")) <= 64:
        return
    assert decode(encode(reference)) == reference


def test_lines_follow_rfc_7468() -> None:
    lines = encode(REFERENCE).splitlines()
    assert lines[0] == "-----BEGIN HSMD KEY REFERENCE-----"
    assert {len(line) for line in lines[1:-2]} == {64}


def test_text_before_the_block_is_ignored() -> None:
    assert decode("subject: www\n" + encode(REFERENCE)) == REFERENCE


@given(data=st.data())
def test_a_changed_byte_is_refused_or_changes_only_the_name(data: st.DataObject) -> None:
    der = bytearray(der_of(REFERENCE))
    at = data.draw(st.integers(0, len(der) - 1))
    der[at] ^= data.draw(st.integers(1, 255))
    try:
        read = decode(pem(bytes(der)))
    except BadRequest:
        return
    assert read.public_key == REFERENCE.public_key


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(der: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(pem(der))


@pytest.mark.parametrize("cut", [1, 10, 60, 90])
def test_truncated_and_extended_files_are_refused(cut: int) -> None:
    der = der_of(REFERENCE)
    with pytest.raises(BadRequest):
        decode(pem(der[:-cut]))
    with pytest.raises(BadRequest, match="trailing bytes"):
        decode(pem(der + bytes(cut)))


def test_lengths_must_be_encoded_in_der() -> None:
    der = der_of(REFERENCE)
    assert der[:2] == b"\x30\x81"
    with pytest.raises(BadRequest, match="not in DER"):
        decode(pem(b"\x30\x82\x00" + der[2:]))
    with pytest.raises(BadRequest, match="not in DER"):
        decode(pem(b"\x30\x80" + der[3:] + b"\0\0"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        pem(b"", LABEL),
        pem(b"x" * (MAX_DER_BYTES + 1)),
    ],
)
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="key reference"):
        decode(text)


def test_names_out_of_range_are_refused() -> None:
    for name in ("", "n" * 65, "ü" * 33):
        with pytest.raises(BadRequest, match="name"):
            encode(KeyReference(name, KEYS[0]))
