"""Envelopes and a real SoftHSM: it opens ours and makes some that we open, with the mechanisms that release 2.6.1 has.

The scripts are what a program with a token does; the AES key of an envelope never leaves the token in them.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from hsmd.envelopes import recipients, rsa_aes_kwp
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Header, Kind, Suite
from hsmd.envelopes.recipients import EcdhKey
from hsmd.envelopes.sealing import open_envelope, seal_private_key, seal_secret_key
from hsmd.errors import EnvelopeInvalid
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from tests.support.envelopes import ABOUT, contents, pkcs8, rsa_key
from tests.support.tokens import in_token

SUITE = Suite.RSA_OAEP_SHA1_KWP
InToken = Callable[[str], Any]

PRELUDE = """
import base64
from pkcs11 import MGF
from pkcs11.constants import DEFAULT
from pkcs11.exceptions import PKCS11Error
from pkcs11.util.ec import encode_named_curve_parameters, encode_ec_public_key
from pkcs11.util.rsa import encode_rsa_public_key

SHA1 = (M.SHA_1, MGF.SHA1, None)
KWP = M.AES_KEY_WRAP_PAD  # SoftHSM gives RFC 5649 this number
NO_USE = {each: False for each in (A.ENCRYPT, A.DECRYPT, A.SIGN, A.VERIFY, A.WRAP, A.UNWRAP)}
SECRET = NO_USE | {A.SENSITIVE: True, A.EXTRACTABLE: False}

def b64(data): return base64.b64encode(data).decode()
def raw(text): return base64.b64decode(text)
def one(kind, label): return session.get_key(object_class=kind, label=label)

def aes_of(oaep, parameters=SHA1, label="recipient"):
    return one(C.PRIVATE_KEY, label).unwrap_key(C.SECRET_KEY, K.AES, oaep, mechanism=M.RSA_PKCS_OAEP,
        mechanism_param=parameters, store=False, template=SECRET | {A.UNWRAP: True})

def mac_of(aes, tag):
    secret = aes.unwrap_key(C.SECRET_KEY, K.GENERIC_SECRET, tag, mechanism=KWP, store=False,
        template=SECRET | {A.SIGN: True})
    return secret.sign(b"hsmd-envelope/1 tag", mechanism=M.SHA256_HMAC)

def private_of(aes, kwp, kind):
    return aes.unwrap_key(C.PRIVATE_KEY, kind, kwp, mechanism=KWP, store=False, template={
        A.SENSITIVE: True, A.EXTRACTABLE: False, A.SIGN: True, A.DECRYPT: False, A.UNWRAP: False,
        A.ENCRYPT: DEFAULT, A.WRAP: DEFAULT, A.VERIFY: DEFAULT})
"""
MAKE_RECIPIENT = """
public, private = session.generate_keypair(K.RSA, 2048, store=True, label="recipient",
    public_template={A.WRAP: True, A.ENCRYPT: False, A.VERIFY: False},
    private_template={A.UNWRAP: True, A.DECRYPT: False, A.SIGN: False})
show(b64(encode_rsa_public_key(public)))
"""
MAKE_ECDH = """
parameters = session.create_domain_parameters(K.EC, {A.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True)
public, private = parameters.generate_keypair(store=True, label="ecdh",
    public_template={A.VERIFY: False}, private_template={A.DERIVE: True, A.SIGN: False})
show(b64(encode_ec_public_key(public)))
"""


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftHsmToken:
    return make_token(tmp_path_factory.mktemp("softhsm") / "token", "owner")


@pytest.fixture(scope="module")
def run(token: SoftHsmToken) -> InToken:
    return lambda script: in_token(token, PRELUDE + script)


@pytest.fixture(scope="module")
def recipient(run: InToken) -> rsa.RSAPublicKey:
    """The public half of an RSA key in the token that only unwraps."""
    pkcs1 = base64.b64decode(run(MAKE_RECIPIENT))
    key = load_der_public_key(pkcs1)
    assert isinstance(key, rsa.RSAPublicKey)
    return key


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- the token opens ---


@pytest.mark.parametrize(("name", "kind", "mechanism"), [("P-256", "EC", "ECDSA"), ("P-384", "EC", "ECDSA"), ("RSA-2048", "RSA", "SHA256_RSA_PKCS")])  # fmt: skip
def test_the_token_opens_ours(
    run: InToken, recipient: rsa.RSAPublicKey, name: str, kind: str, mechanism: str
) -> None:
    """The private key becomes an object of the token, and what it signs verifies under the public half we know."""
    envelope = seal_private_key(contents()[name], recipient, SUITE, ABOUT)
    parts = rsa_aes_kwp.split(Envelope.decode(envelope.encode()), recipient)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"challenge")
    signed = digest.finalize() if kind == "EC" else b"challenge"
    mac, signature = run(f"""
aes = aes_of(raw({b64(parts.oaep)!r}))
mac = mac_of(aes, raw({b64(parts.tag)!r}))
key = private_of(aes, raw({b64(parts.kwp)!r}), K.{kind})
show([b64(mac), b64(key.sign(raw({b64(signed)!r}), mechanism=M.{mechanism}))])
""")
    parts.check_mac(base64.b64decode(mac))
    verify(contents()[name], base64.b64decode(signature))


def verify(key: bytes, signature: bytes) -> None:
    """Check a signature of the token over the challenge. Raises InvalidSignature."""
    public = load_der_private_key(key, None).public_key()
    if isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, b"challenge", padding.PKCS1v15(), hashes.SHA256())
        return
    assert isinstance(public, ec.EllipticCurvePublicKey)
    half = len(signature) // 2
    der = utils.encode_dss_signature(
        int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    )
    public.verify(der, b"challenge", ec.ECDSA(hashes.SHA256()))


def test_the_token_refuses_every_changed_byte(run: InToken, recipient: rsa.RSAPublicKey) -> None:
    """In all three parts; what the token accepts, the comparison of the tag would have to refuse, and there is none such."""
    parts = rsa_aes_kwp.split(seal_private_key(contents()["P-256"], recipient, SUITE, ABOUT), recipient)
    counts = run(f"""
parts = [raw({b64(parts.oaep)!r}), raw({b64(parts.kwp)!r}), raw({b64(parts.tag)!r})]
def opens(oaep, kwp, tag):
    try:
        aes = aes_of(oaep)
        mac_of(aes, tag)
        private_of(aes, kwp, K.EC)
    except PKCS11Error:
        return False
    return True
assert opens(*parts)
refused = [0, 0, 0]
for number, part in enumerate(parts):
    for position in range(len(part)):
        altered = bytearray(part)
        altered[position] ^= 0x81
        refused[number] += not opens(*[bytes(altered) if each == number else parts[each] for each in range(3)])
show(refused)
""")
    assert counts == [256, len(parts.kwp), 40]


def test_the_token_tells_another_header_by_the_tag(run: InToken, recipient: rsa.RSAPublicKey) -> None:
    envelope = seal_secret_key(bytes(32), recipient, SUITE, ABOUT)
    header = Header(SUITE, Kind.SECRET_KEY, envelope.header.recipient, b"", {**ABOUT, "owner": "bert"})
    right, wrong = (
        rsa_aes_kwp.split(each, recipient) for each in (envelope, Envelope(header, envelope.body))
    )
    mac = base64.b64decode(
        run(f"show(b64(mac_of(aes_of(raw({b64(right.oaep)!r})), raw({b64(right.tag)!r}))))")
    )
    right.check_mac(mac)
    with pytest.raises(EnvelopeInvalid):
        wrong.check_mac(mac)


def test_a_tag_in_the_token_cannot_be_read(run: InToken, recipient: rsa.RSAPublicKey) -> None:
    """An attacker who puts a wrapped 32-byte key in the place of the tag gets an HMAC with it, at most."""
    parts = rsa_aes_kwp.split(seal_secret_key(bytes(32), recipient, SUITE, {}), recipient)
    assert len(parts.kwp) == len(parts.tag)
    outcome = run(f"""
aes = aes_of(raw({b64(parts.oaep)!r}))
secret = aes.unwrap_key(C.SECRET_KEY, K.GENERIC_SECRET, raw({b64(parts.kwp)!r}), mechanism=KWP, store=False,
    template=SECRET | {{A.SIGN: True}})
try:
    show(b64(secret[A.VALUE]))
except PKCS11Error as error:
    show(type(error).__name__)
""")
    assert outcome == "AttributeSensitive"


def test_oaep_of_the_token_is_sha_1(run: InToken, recipient: rsa.RSAPublicKey) -> None:
    """Why there is a suite with SHA-1: release 2.6.1 refuses the other one before it tries."""
    parts = rsa_aes_kwp.split(seal_secret_key(bytes(32), recipient, Suite.RSA_OAEP_SHA256_KWP, {}), recipient)
    outcome = run(f"""
try:
    aes_of(raw({b64(parts.oaep)!r}), (M.SHA256, MGF.SHA256, None))
    show("opened")
except PKCS11Error as error:
    show(type(error).__name__)
""")
    assert outcome == "ArgumentsBad"


@pytest.mark.parametrize("length", [16, 24, 32])
def test_the_token_takes_an_aes_key_of_any_length(
    run: InToken, recipient: rsa.RSAPublicKey, length: int
) -> None:
    """What docs/envelopes.md, section 3, says about senders who use a shorter key: a reader in software refuses it."""
    aes_key = bytes(range(length))
    oaep = rsa_aes_kwp.oaep_encrypt(recipient, SUITE, aes_key)
    tag = rsa_aes_kwp.kwp_wrap(aes_key, bytes(32))
    mac = run(f"show(b64(mac_of(aes_of(raw({b64(oaep)!r})), raw({b64(tag)!r}))))")
    assert base64.b64decode(mac) == hmac.digest(bytes(32), rsa_aes_kwp.MAC_MESSAGE, "sha256")


# --- the token seals ---


MAKE = {
    "EC": """
parameters = session.create_domain_parameters(K.EC, {A.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True)
public, private = parameters.generate_keypair(store=False, private_template={A.EXTRACTABLE: True})
spki = encode_ec_public_key(public)
""",
    "RSA": """
public, private = session.generate_keypair(K.RSA, 2048, store=False, private_template={A.EXTRACTABLE: True})
spki = encode_rsa_public_key(public)
""",
}
SEAL = """
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hsmd.envelopes import recipients, rsa_aes_kwp
from hsmd.envelopes.header import Header, Kind, Suite

to = session.create_object({A.CLASS: C.PUBLIC_KEY, A.KEY_TYPE: K.RSA, A.TOKEN: False, A.WRAP: True,
    A.MODULUS: modulus, A.PUBLIC_EXPONENT: bytes([1, 0, 1])})
aes = session.generate_key(K.AES, 256, store=False, template=SECRET | {A.EXTRACTABLE: True, A.WRAP: True})
oaep = to.wrap_key(aes, mechanism=M.RSA_PKCS_OAEP, mechanism_param=SHA1)
kwp = aes.wrap_key(private, mechanism=KWP)
header = Header(Suite.RSA_OAEP_SHA1_KWP, Kind.PRIVATE_KEY, recipient, recipients.digest(load_der_public_key(spki)), {"record": 3})
content = session.create_object({A.CLASS: C.SECRET_KEY, A.KEY_TYPE: K.GENERIC_SECRET, A.TOKEN: False,
    A.VALUE: rsa_aes_kwp.tag_content(header, oaep, kwp), A.EXTRACTABLE: True, A.SENSITIVE: False})
show(b64(rsa_aes_kwp.join(header, oaep, kwp, aes.wrap_key(content, mechanism=KWP)).encode()))
"""


@pytest.mark.parametrize("kind", MAKE)
def test_we_open_what_the_token_seals(run: InToken, kind: str) -> None:
    """The token fills the private key up to a multiple of 8 bytes; what comes out here is without that, and the same key."""
    key = rsa_key().public_key()
    modulus = key.public_numbers().n.to_bytes(256, "big")
    given = f"modulus, recipient = raw({b64(modulus)!r}), raw({b64(recipients.digest(key))!r})\n"
    envelope = Envelope.decode(base64.b64decode(run(given + MAKE[kind] + SEAL)))
    opened = open_envelope(envelope, rsa_key())
    public = load_der_private_key(opened, None).public_key()
    assert recipients.digest(public) == envelope.header.spki  # type: ignore[arg-type]
    parts = rsa_aes_kwp.split(envelope, key)
    inside = rsa_aes_kwp.kwp_unwrap(rsa_aes_kwp.oaep_decrypt(rsa_key(), SUITE, parts.oaep), parts.kwp)
    assert inside == opened + bytes(-len(opened) % 8)
    if kind == "EC":
        assert (len(opened), len(inside)) == (67, 72)


# --- HPKE with a P-256 key in the token ---


def test_a_p_256_key_of_the_token_opens_ours(run: InToken) -> None:
    public = load_der_public_key(base64.b64decode(run(MAKE_ECDH)))
    assert isinstance(public, ec.EllipticCurvePublicKey)

    def exchange(peer: ec.EllipticCurvePublicKey) -> bytes:
        point = peer.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        shared = run(f"""
from pkcs11 import KDF
secret = one(C.PRIVATE_KEY, "ecdh").derive_key(K.GENERIC_SECRET, 256, mechanism=M.ECDH1_DERIVE,
    mechanism_param=(KDF.NULL, None, raw({b64(point)!r})), store=False,
    template={{A.SENSITIVE: False, A.EXTRACTABLE: True}})
show(b64(secret[A.VALUE]))
""")
        return base64.b64decode(shared)

    key = pkcs8(ec.generate_private_key(ec.SECP256R1()))
    envelope = seal_private_key(key, public, Suite.HPKE_P256, ABOUT)
    assert open_envelope(envelope, EcdhKey(public, exchange)) == key
    broken = Envelope(envelope.header, envelope.body[:-1] + bytes([envelope.body[-1] ^ 1]))
    with pytest.raises(EnvelopeInvalid):
        open_envelope(broken, EcdhKey(public, exchange))
