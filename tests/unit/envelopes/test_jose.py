"""JOSE fits where it uses the same primitives: RSA-OAEP of a 256-bit key in a JWE, and keys as JWK; joserfc is its code.

A JWE encrypts its content with AES-GCM or AES-CBC, and wraps keys with RFC 3394, so a JWE as a whole is no envelope.
"""

from __future__ import annotations

import base64
import json
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jwe
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from hsmd.envelopes import rsa_aes_kwp
from hsmd.envelopes.bare import bare_of, open_bare
from hsmd.envelopes.content import spki_digest
from hsmd.envelopes.header import Kind, Suite
from hsmd.envelopes.sealing import open_envelope, seal_private_key, seal_secret_key
from hsmd.envelopes.vault.public_keys import canonical_spki
from hsmd.errors import EnvelopeInvalid
from tests.support.envelopes import ABOUT, contents, recipient, rsa_key

ALGORITHMS = {Suite.RSA_OAEP_SHA1_KWP: "RSA-OAEP", Suite.RSA_OAEP_SHA256_KWP: "RSA-OAEP-256"}
CONTENT = b"content of a JWE"


def theirs() -> RSAKey:
    return RSAKey.import_key(rsa_key())


def parts(token: str) -> list[bytes]:
    """Header as it stands, and the four other parts decoded."""
    head, *others = token.split(".")
    return [head.encode(), *(base64.urlsafe_b64decode(each + "=" * (-len(each) % 4)) for each in others)]


def joined(head: bytes, *others: bytes) -> str:
    return ".".join([head.decode(), *(encoded(each) for each in others)])


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.mark.parametrize("suite", ALGORITHMS)
def test_we_open_joserfcs_rsa_oaep(suite: Suite) -> None:
    """Its encrypted key is the first part of a bare wrapped key, which then is imported and sealed anew."""
    name = ALGORITHMS[suite]
    token = jwe.encrypt_compact(
        {"alg": name, "enc": "A256GCM"}, CONTENT, theirs(), algorithms=[name, "A256GCM"]
    )
    head, oaep, nonce, ciphertext, tag = parts(token)
    aes_key = rsa_aes_kwp.oaep_decrypt(rsa_key(), suite, oaep)
    assert AESGCM(aes_key).decrypt(nonce, ciphertext + tag, head) == CONTENT
    for other in set(ALGORITHMS) - {suite}:
        with pytest.raises(EnvelopeInvalid):
            rsa_aes_kwp.oaep_decrypt(rsa_key(), other, oaep)
    bare = oaep + rsa_aes_kwp.kwp_wrap(aes_key, contents()["P-256"])
    assert open_bare(bare, rsa_key(), suite, Kind.PRIVATE_KEY) == contents()["P-256"]


@pytest.mark.parametrize("suite", ALGORITHMS)
def test_joserfc_opens_our_rsa_oaep(suite: Suite) -> None:
    name = ALGORITHMS[suite]
    envelope = seal_private_key(contents()["Ed25519"], rsa_key().public_key(), suite, ABOUT)
    oaep = bare_of(envelope)[:256]
    head = encoded(json.dumps({"alg": name, "enc": "A256GCM"}).encode()).encode()
    nonce = os.urandom(12)
    sealed = AESGCM(rsa_aes_kwp.oaep_decrypt(rsa_key(), suite, oaep)).encrypt(nonce, CONTENT, head)
    token = joined(head, oaep, nonce, sealed[:-16], sealed[-16:])
    assert jwe.decrypt_compact(token, theirs(), algorithms=[name, "A256GCM"]).plaintext == CONTENT


def test_the_key_wrapping_of_jose_is_another_one() -> None:
    """A256KW is RFC 3394, whose check value is not that of RFC 5649: neither is taken for the other."""
    key = os.urandom(32)
    token = jwe.encrypt_compact(
        {"alg": "A256KW", "enc": "A256GCM"}, CONTENT, OctKey.import_key(key), algorithms=["A256KW", "A256GCM"]
    )
    with pytest.raises(EnvelopeInvalid):
        rsa_aes_kwp.kwp_unwrap(key, parts(token)[1])


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize(
    "key",
    [
        ECKey.generate_key("P-256", private=True),
        ECKey.generate_key("P-521", private=True),
        OKPKey.generate_key("Ed25519", private=True),
        OKPKey.generate_key("X25519", private=True),
        RSAKey.generate_key(2048, private=True),
    ],
    ids=lambda key: f"{key.key_type}-{getattr(key, 'curve_name', '')}",
)
def test_a_key_that_is_a_jwk_comes_back(key: ECKey | OKPKey | RSAKey, suite: Suite) -> None:
    """Its PKCS#8 is sealed, its public half has the one form, and the JWK of what is opened is the same."""
    pkcs8 = key.as_der(private=True)
    facts = canonical_spki(key.as_der(private=False))
    assert facts.digest == spki_digest(pkcs8)
    envelope = seal_private_key(pkcs8, recipient(suite).public_key(), suite, ABOUT)
    again = type(key).import_key(open_envelope(envelope, recipient(suite)))
    assert again.as_dict(private=True) == key.as_dict(private=True)


def test_so_does_a_symmetric_one() -> None:
    key = OctKey.generate_key(256)
    suite = Suite.HPKE_X25519
    secret = key.get_op_key("wrapKey")
    envelope = seal_secret_key(secret, recipient(suite).public_key(), suite, ABOUT)
    assert OctKey.import_key(open_envelope(envelope, recipient(suite))).as_dict() == key.as_dict()
