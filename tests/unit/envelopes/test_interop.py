"""Other implementations open our envelopes, and we open theirs: pyhpke, and one written from docs/envelopes.md alone."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey, OpenError

from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Suite
from hsmd.envelopes.recipients import HybridPrivateKey, PrivateKey
from hsmd.envelopes.sealing import open_envelope
from hsmd.errors import EnvelopeInvalid
from tests.support import hpke_reference as reference
from tests.support.envelopes import HPKE_SUITES, RSA_SUITES, contents, recipient, sealed

PYHPKE = {
    Suite.HPKE_P256: (KEMId.DHKEM_P256_HKDF_SHA256, 65),
    Suite.HPKE_X25519: (KEMId.DHKEM_X25519_HKDF_SHA256, 32),
}
KEY = contents()["P-256"]


def spki_of(key: PrivateKey) -> bytes:
    """The SPKI of the recipient as section 2 says, for the hybrid key written by hand."""
    if isinstance(key, HybridPrivateKey):
        raw = key.mlkem768.public_key().public_bytes_raw() + key.x25519.public_key().public_bytes_raw()
        algorithm = bytes.fromhex("300d 060b 2b0601040183e62d81c87a")
        bits = b"\x03\x82" + (len(raw) + 1).to_bytes(2, "big") + b"\0" + raw
        return b"\x30\x82" + len(algorithm + bits).to_bytes(2, "big") + algorithm + bits
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[union-attr]


def written_header(suite: Suite, **changes: Any) -> bytes:
    """A header written by a stranger with the JSON of the standard library."""
    spki = (
        load_der_private_key(KEY, None)
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    members = {
        "about": {"record": 12, "owner": "Z\xfcrich \U0001f511"},
        "format": "hsmd-envelope/1",
        "kind": "private-key",
        "recipient": sha256(spki_of(recipient(suite))).hexdigest(),
        "spki": sha256(spki).hexdigest(),
        "suite": suite.value,
    }
    return json.dumps(members | changes, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def read(envelope: bytes) -> tuple[bytes, dict[str, Any], bytes]:
    """Header, its members and body, as a stranger cuts them."""
    length = int.from_bytes(envelope[:2], "big")
    header, body = envelope[2 : 2 + length], envelope[2 + length :]
    return header, json.loads(header), body


def written(header: bytes, body: bytes) -> Envelope:
    """A stranger's envelope, as we read it."""
    return Envelope.decode(len(header).to_bytes(2, "big") + header + body)


# --- HPKE ---


@pytest.mark.parametrize("suite", PYHPKE)
@pytest.mark.parametrize("name", list(contents()))
def test_pyhpke_opens_ours(suite: Suite, name: str) -> None:
    header, members, body = read(sealed(suite, name).encode())
    kem, cut = PYHPKE[suite]
    theirs = CipherSuite.new(kem, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
    key = KEMKey.from_pyca_cryptography_key(recipient(suite))
    assert theirs.create_recipient_context(body[:cut], key, info=header).open(body[cut:]) == contents()[name]
    assert members["suite"] == suite
    with pytest.raises(OpenError):
        theirs.create_recipient_context(body[:cut], key, info=header + b" ").open(body[cut:])


@pytest.mark.parametrize("suite", PYHPKE)
def test_we_open_pyhpkes(suite: Suite) -> None:
    theirs = CipherSuite.new(PYHPKE[suite][0], KDFId.HKDF_SHA256, AEADId.AES256_GCM)
    header = written_header(suite)
    enc, sender = theirs.create_sender_context(
        KEMKey.from_pyca_cryptography_key(recipient(suite).public_key()), info=header
    )
    ciphertext = sender.seal(KEY)
    assert open_envelope(written(header, enc + ciphertext), recipient(suite)) == KEY
    other = written_header(suite, about={"record": 13})
    with pytest.raises(EnvelopeInvalid):
        open_envelope(written(other, enc + ciphertext), recipient(suite))


def encapsulated(suite: Suite) -> tuple[int, bytes, bytes]:
    """Number of the KEM, encapsulated key and shared secret, made by the reference for our recipient."""
    key = recipient(suite)
    if isinstance(key, HybridPrivateKey):
        public = key.public_key()
        return reference.XWING, *reference.xwing_encapsulate(public.mlkem768, public.x25519)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        own = ec.generate_private_key(ec.SECP256R1())
        enc = reference.point(own.public_key())
        shared = own.exchange(ec.ECDH(), key.public_key())
        return reference.P256, enc, reference.dhkem_p256(shared, enc, reference.point(key.public_key()))
    assert isinstance(key, x25519.X25519PrivateKey)
    one = x25519.X25519PrivateKey.generate()
    enc, to = one.public_key().public_bytes_raw(), key.public_key().public_bytes_raw()
    return reference.X25519, enc, reference.dhkem_x25519(one.exchange(key.public_key()), enc, to)


def decapsulated(suite: Suite, body: bytes) -> tuple[int, int, bytes]:
    """Number of the KEM, length of the encapsulated key and shared secret, from the reference."""
    key = recipient(suite)
    if isinstance(key, HybridPrivateKey):
        return reference.XWING, 1120, reference.xwing_decapsulate(key.mlkem768, key.x25519, body[:1120])
    if isinstance(key, ec.EllipticCurvePrivateKey):
        peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), body[:65])
        own = reference.point(key.public_key())
        return reference.P256, 65, reference.dhkem_p256(key.exchange(ec.ECDH(), peer), body[:65], own)
    assert isinstance(key, x25519.X25519PrivateKey)
    shared = key.exchange(x25519.X25519PublicKey.from_public_bytes(body[:32]))
    return (
        reference.X25519,
        32,
        reference.dhkem_x25519(shared, body[:32], key.public_key().public_bytes_raw()),
    )


@pytest.mark.parametrize("suite", HPKE_SUITES)
def test_hpke_written_from_the_rfc_opens_ours(suite: Suite) -> None:
    header, _, body = read(sealed(suite).encode())
    kem, cut, shared = decapsulated(suite, body)
    made = reference.schedule(kem, reference.AES_256_GCM, body[:cut], shared, header)
    assert made.open(body[cut:]) == KEY


@pytest.mark.parametrize("suite", HPKE_SUITES)
def test_we_open_those_of_hpke_written_from_the_rfc(suite: Suite) -> None:
    kem, enc, shared = encapsulated(suite)
    header = written_header(suite)
    made = reference.schedule(kem, reference.AES_256_GCM, enc, shared, header)
    assert open_envelope(written(header, enc + made.seal(KEY)), recipient(suite)) == KEY


# --- RSA, with nothing but the primitives that section 3 names ---


def rsa_parts(suite: Suite) -> tuple[rsa.RSAPrivateKey, padding.OAEP]:
    key = recipient(suite)
    assert isinstance(key, rsa.RSAPrivateKey)
    algorithm = hashes.SHA1() if "sha1" in suite else hashes.SHA256()
    return key, padding.OAEP(padding.MGF1(algorithm), algorithm, None)


@pytest.mark.parametrize("suite", RSA_SUITES)
def test_a_stranger_opens_ours(suite: Suite) -> None:
    key, oaep = rsa_parts(suite)
    envelope = sealed(suite).encode()
    _, members, body = read(envelope)
    aes_key = key.decrypt(body[:256], oaep)
    assert aes_key_unwrap_with_padding(aes_key, body[-40:]) == sha256(envelope[:-40]).digest()
    assert aes_key_unwrap_with_padding(aes_key, body[256:-40]) == KEY
    assert members["recipient"] == sha256(spki_of(key)).hexdigest()


@pytest.mark.parametrize("suite", RSA_SUITES)
def test_we_open_a_strangers(suite: Suite) -> None:
    key, oaep = rsa_parts(suite)
    header, aes_key = written_header(suite), bytes(range(32))
    front = len(header).to_bytes(2, "big") + header + key.public_key().encrypt(aes_key, oaep)
    front += aes_key_wrap_with_padding(aes_key, KEY)
    tag = aes_key_wrap_with_padding(aes_key, sha256(front).digest())
    assert open_envelope(Envelope.decode(front + tag), key) == KEY
    with pytest.raises(EnvelopeInvalid):
        open_envelope(Envelope.decode(front + aes_key_wrap_with_padding(aes_key, bytes(32))), key)
