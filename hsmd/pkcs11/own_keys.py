"""Keys in a token of an owner's: a wrapping key and a signing key, made or stored there, and what they do.

A wrapping key is an RSA key that only unwraps, or a P-256 key that only derives; a signing key is a P-256 key that only signs.
The two objects of a pair share CKA_ID and label. Keys that come out of envelopes are proven by a signature before they stay.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pkcs11
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pkcs11 import KDF, Attribute, KeyType as KeyKind, Mechanism, MechanismFlag, ObjectClass

from hsmd.algorithms import Family, KeyType
from hsmd.envelopes import content as contents, rsa_aes_kwp
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.recipients import EcdhKey
from hsmd.errors import BadRequest, Conflict, EnvelopeInvalid, NotFound, TokenFailure
from hsmd.pkcs11 import search, templates, wrapping
from hsmd.pkcs11.attributes import flag
from hsmd.pkcs11.errors import name_of
from hsmd.pkcs11.mechanisms import generation
from hsmd.pkcs11.public_keys import (
    CURVE_OIDS,
    PublicHalf,
    big_integer,
    private_fits,
    public_attributes,
    read_public_half,
)
from hsmd.pkcs11.wrapping import Wrapping, temporary
from hsmd.purposes import Purpose

CKA_ID_BYTES = 16
UNWRAP, DERIVE, SIGN = Attribute.UNWRAP, Attribute.DERIVE, Attribute.SIGN
"""The one thing that a key of a pair does."""
RSA_BITS = 3_072
_MAX_SHARING = 16
"""Private keys of one CKA_ID or label that are tried."""
_TEXT = b"hsmd: this private key belongs to its public half"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


# --- management keys ---


def generate_wrapping_key(session: Any, suite: str, label: str, cka_id: bytes) -> PublicHalf:
    """A pair that never leaves the token: RSA-3072 that unwraps (`rsa`), or P-256 that derives (`p256`). Raises PKCS11Error."""
    if suite == "rsa":
        made = session.generate_keypair(
            KeyKind.RSA,
            RSA_BITS,
            id=cka_id,
            label=label,
            store=True,
            capabilities=MechanismFlag.WRAP | MechanismFlag.UNWRAP,
            public_template=templates.own_public_key(Attribute.WRAP),
            private_template=templates.own_private_key(Attribute.UNWRAP),
        )
        return _half(made[0])
    return _generate_p256(session, label, cka_id, MechanismFlag.DERIVE, Attribute.DERIVE)


def generate_signing_key(session: Any, label: str, cka_id: bytes) -> PublicHalf:
    """A P-256 pair that signs and never leaves the token. Raises PKCS11Error."""
    flags = MechanismFlag.SIGN | MechanismFlag.VERIFY
    return _generate_p256(session, label, cka_id, flags, Attribute.SIGN)


def signing_key(session: Any, label: str) -> tuple[Any, PublicHalf] | None:
    """The P-256 key with this label and its public half, None if there is none. Raises BadRequest (another key), PKCS11Error."""
    privates = _labelled(session, ObjectClass.PRIVATE_KEY, label)
    if not privates:
        return None
    halves = [read_public_half(each) for each in _labelled(session, ObjectClass.PUBLIC_KEY, label)]
    fitting = [each for each in halves if each is not None and private_fits(privates[0], each)]
    if len(privates) > 1 or not fitting or fitting[0].key_type is not KeyType.P256:
        raise BadRequest(
            f"the token has no P-256 key that alone has the label {label!r}, with its public half; choose another label"
        )
    prove(privates[0], fitting[0])
    return privates[0], fitting[0]


def make_signing_key(session: Any, label: str) -> tuple[Any, PublicHalf]:
    """Generate such a key, which never leaves the token. Raises Conflict if the label is taken, PKCS11Error."""
    cka_id = _new_id(session, label)
    half = generate_signing_key(session, label, cka_id)
    return private_key(session, cka_id, half), half


def store_pair(session: Any, private: PrivateKey, use: Attribute, label: str, cka_id: bytes) -> Any:
    """Store a pair that was made elsewhere, for one use; the private object. Raises BadRequest, PKCS11Error.

    What was stored is destroyed again if the second half cannot be stored.
    """
    half = PublicHalf.of(private.public_key())
    if half is None:
        raise BadRequest(
            "the token takes RSA keys of 2048, 3072 and 4096 bits, P-256, P-384, P-521 and Ed25519"
        )
    stored = session.create_object(
        {
            **templates.named(ObjectClass.PRIVATE_KEY, cka_id, label),
            **templates.own_private_key(use),
            **templates.checked(_private_attributes(private, half)),
        }
    )
    try:
        if use is Attribute.SIGN:
            prove(stored, half)
        _store_public_key(session, half, use, label, cka_id)
    except BaseException:
        stored.destroy()
        raise
    return stored


def private_key(session: Any, cka_id: bytes, half: PublicHalf) -> Any:
    """The private object with this CKA_ID that can belong to `half`. Raises NotFound with the next step."""
    wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.TOKEN: True, Attribute.ID: cka_id}
    found = [each for each in search.find(session, wanted) if private_fits(each, half)]
    if not found:
        raise NotFound(
            f"the token has no private key with the CKA_ID {cka_id.hex()} that belongs to the management key; "
            "it may be another token: name the right one, or use the backup"
        )
    return found[0]


def sign_p256(private: Any, text: bytes) -> bytes:
    """ECDSA with SHA-256 in the token, as DER. Raises PKCS11Error."""
    return _der(private.sign(hashlib.sha256(text).digest(), mechanism=Mechanism.ECDSA))


def ecdh_key(private: Any, public: ec.EllipticCurvePublicKey) -> EcdhKey:
    """The key of the token as one that opens envelopes: one CKM_ECDH1_DERIVE for each. It raises PKCS11Error."""

    def exchange(peer: ec.EllipticCurvePublicKey) -> bytes:
        point = peer.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        derived = private.derive_key(
            KeyKind.GENERIC_SECRET,
            256,
            mechanism=Mechanism.ECDH1_DERIVE,
            mechanism_param=(KDF.NULL, None, point),
            store=False,
            template=templates.readable_secret(),
        )
        with temporary(derived):
            value: bytes = derived[Attribute.VALUE]
            return value

    return EcdhKey(public, exchange)


def open_envelope(
    session: Any, unwrapping_key: Any, public: rsa.RSAPublicKey, envelope: Envelope, found: Wrapping
) -> bytes:
    """The key in an envelope to an RSA key of the token: its AES key leaves the token, and this process opens the rest.

    The envelope's tag is checked in the token first, with an AES key that cannot be read. Raises EnvelopeInvalid, BadRequest,
    PKCS11Error.
    """
    suite, parts = envelope.header.suite, rsa_aes_kwp.split(envelope, public)
    with wrapping.content_key(session, unwrapping_key, suite, parts, found):
        pass
    with wrapping.content_refused(session):
        opened = wrapping.unwrap_aes(unwrapping_key, suite, parts.oaep, extractable=True, sensitive=False)
    with temporary(opened):
        aes_key: bytes = opened[Attribute.VALUE]
    if len(aes_key) != rsa_aes_kwp.AES_KEY_BYTES:
        raise EnvelopeInvalid
    return contents.unsealed(envelope.header, rsa_aes_kwp.kwp_unwrap(aes_key, parts.kwp))


# --- transaction keys ---


def unwrap_to_stay(
    session: Any,
    unwrapping_key: Any,
    public: rsa.RSAPublicKey,
    envelope: Envelope,
    half: PublicHalf,
    found: Wrapping,
    label: str,
) -> bytes:
    """Open an envelope inside the token and keep its private key there, to sign; its CKA_ID.

    The key never is in the memory of this process. Raises EnvelopeInvalid, BadRequest, Conflict, PKCS11Error.
    """
    suite, parts = envelope.header.suite, rsa_aes_kwp.split(envelope, public)
    cka_id = _new_id(session, label)
    template = templates.unwrapped_private_key(frozenset({Purpose.SIGN_MESSAGE}))
    with wrapping.content_key(session, unwrapping_key, suite, parts, found) as aes_key:
        kwp = found.need(suite)
        tried = wrapping.unwrap_private_key(session, aes_key, kwp, parts.kwp, half, templates.checking_copy())
        with temporary(tried):
            prove(tried, half)
        kept = wrapping.unwrap_private_key(
            session, aes_key, kwp, parts.kwp, half, template, name=label, cka_id=cka_id, store=True
        )
    try:
        prove(kept, half)
        _store_public_key(session, half, Attribute.SIGN, label, cka_id)
    except BaseException:
        kept.destroy()
        raise
    return cka_id


def store_to_stay(session: Any, private: PrivateKey, label: str) -> bytes:
    """Keep a private key that is in memory in the token, to sign; its CKA_ID. Raises BadRequest, Conflict, PKCS11Error."""
    cka_id = _new_id(session, label)
    store_pair(session, private, Attribute.SIGN, label, cka_id)
    return cka_id


def generate_for_deposit(session: Any, key_type: KeyType) -> tuple[Any, Any, PublicHalf]:
    """A pair (public, private, half) of session objects whose private key signs and can be wrapped. Raises PKCS11Error."""
    arguments: dict[str, Any] = {
        "store": False,
        "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
        "private_template": templates.extractable_private_key(),
        "mechanism": generation(key_type),
    }
    if key_type.facts.family is Family.RSA:
        public, private = session.generate_keypair(KeyKind.RSA, key_type.facts.bits, **arguments)
    elif key_type.facts.family is Family.EC:
        domain = session.create_domain_parameters(
            KeyKind.EC, {Attribute.EC_PARAMS: CURVE_OIDS[key_type.facts.curve]}, local=True
        )
        public, private = domain.generate_keypair(**arguments)
    else:
        raise BadRequest("tokens do not wrap Ed25519 keys; choose RSA or EC, or make the key without a token")
    return public, private, _half(public)


def find_extractable(session: Any, label: str) -> tuple[Any, PublicHalf]:
    """The private key with this label and its public half, if the token lets it be wrapped. Raises NotFound, BadRequest."""
    privates = _labelled(session, ObjectClass.PRIVATE_KEY, label)
    if not privates:
        raise NotFound(
            f"the token has no private key with the label {label!r}; list its objects, and name one"
        )
    if len(privates) > 1:
        raise BadRequest(
            f"the token has {len(privates)} private keys with the label {label!r}; give one of them another label"
        )
    private = privates[0]
    if flag(private, Attribute.EXTRACTABLE) is not True:
        raise BadRequest(
            f"the token does not let the key {label!r} leave it (CKA_EXTRACTABLE); only a key that was made extractable "
            "can be deposited"
        )
    halves = [read_public_half(each) for each in _labelled(session, ObjectClass.PUBLIC_KEY, label)]
    half = next(
        (each for each in [read_public_half(private), *halves] if each and private_fits(private, each)), None
    )
    if half is None:
        raise BadRequest(
            f"the token has no public key for {label!r}; store it beside the private key, with its label"
        )
    prove(private, half)
    return private, half


def sign(private: Any, half: PublicHalf, text: bytes) -> bytes:
    """A signature by a transaction key of the token: ECDSA with the hash of the curve, or RSA PKCS #1 v1.5 with SHA-256.

    Raises BadRequest for another kind, PKCS11Error.
    """
    family = half.key_type.facts.family
    if family is Family.EC:
        digest = {256: hashlib.sha256, 384: hashlib.sha384, 521: hashlib.sha512}[half.key_type.facts.bits]
        return _der(private.sign(digest(text).digest(), mechanism=Mechanism.ECDSA))
    if family is Family.RSA:
        signature: bytes = private.sign(text, mechanism=Mechanism.SHA256_RSA_PKCS)
        return signature
    raise BadRequest("tokens do not wrap Ed25519 keys")


def prove(private: Any, half: PublicHalf) -> None:
    """Raises EnvelopeInvalid unless the private key makes a signature that verifies under `half`."""
    try:
        signature = (
            private.sign(_TEXT, mechanism=Mechanism.EDDSA)
            if half.key_type.facts.family is Family.ED25519
            else sign(private, half, _TEXT)
        )
        _verify(half, signature)
    except (InvalidSignature, ValueError):
        raise EnvelopeInvalid(
            detail="what came out is not the private key of the expected public key"
        ) from None


# --- parts ---


def _verify(half: PublicHalf, signature: bytes) -> None:
    public = half.public_key
    if isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, _TEXT, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(public, ec.EllipticCurvePublicKey):
        algorithm = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[public.key_size]
        digest = hashes.Hash(algorithm)
        digest.update(_TEXT)
        public.verify(signature, digest.finalize(), ec.ECDSA(Prehashed(algorithm)))
    else:
        public.verify(signature, _TEXT)


def _der(raw: bytes) -> bytes:
    """ECDSA-Sig-Value of r || s. Raises TokenFailure."""
    half = len(raw) // 2
    if not half or len(raw) % 2:
        raise TokenFailure("the token returned a signature of an odd length")
    return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))


def _generate_p256(
    session: Any, label: str, cka_id: bytes, capabilities: MechanismFlag, use: Attribute
) -> PublicHalf:
    domain = session.create_domain_parameters(
        KeyKind.EC, {Attribute.EC_PARAMS: CURVE_OIDS["secp256r1"]}, local=True
    )
    public, _ = domain.generate_keypair(
        id=cka_id,
        label=label,
        store=True,
        capabilities=capabilities,
        mechanism=Mechanism.EC_KEY_PAIR_GEN,
        public_template=templates.own_public_key(Attribute.VERIFY if use is Attribute.SIGN else None),
        private_template=templates.own_private_key(use),
    )
    return _half(public)


def _half(public: Any) -> PublicHalf:
    half = read_public_half(public)
    if half is None:
        raise TokenFailure("the token made a key of another kind than it was asked for")
    return half


def _store_public_key(session: Any, half: PublicHalf, use: Attribute, label: str, cka_id: bytes) -> None:
    opposite = {Attribute.SIGN: Attribute.VERIFY, Attribute.UNWRAP: Attribute.WRAP}.get(use)
    session.create_object(
        templates.checked(
            {
                **templates.named(ObjectClass.PUBLIC_KEY, cka_id, label),
                **templates.own_public_key(opposite),
                **public_attributes(half),
            }
        )
    )


def _labelled(session: Any, object_class: ObjectClass, label: str) -> list[Any]:
    wanted = {Attribute.CLASS: object_class, Attribute.TOKEN: True, Attribute.LABEL: label}
    found = list(search.find(session, wanted))
    if len(found) > _MAX_SHARING:
        raise BadRequest(
            f"the token has {len(found)} objects with the label {label!r}; give the key another label"
        )
    return found


def _new_id(session: Any, label: str) -> bytes:
    """A fresh CKA_ID. Raises Conflict if the label is taken."""
    check_label(session, label)
    return os.urandom(CKA_ID_BYTES)


def check_label(session: Any, label: str) -> None:
    """Raises Conflict if a private key has this label."""
    if _labelled(session, ObjectClass.PRIVATE_KEY, label):
        raise Conflict(f"the token has a private key with the label {label!r} already; choose another label")


def destroy_pair(session: Any, cka_id: bytes) -> None:
    """Destroy the objects with this CKA_ID, which were made a moment ago; what fails stays. No error."""
    for object_class in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        with suppress(pkcs11.PKCS11Error):
            wanted = {Attribute.CLASS: object_class, Attribute.TOKEN: True, Attribute.ID: cka_id}
            for found in search.find(session, wanted):
                found.destroy()


def _private_attributes(private: PrivateKey, half: PublicHalf) -> templates.Template:
    public = public_attributes(half)
    public.pop(Attribute.EC_POINT, None)
    if isinstance(private, rsa.RSAPrivateKey):
        numbers = private.private_numbers()
        return public | {
            Attribute.PRIVATE_EXPONENT: big_integer(numbers.d),
            Attribute.PRIME_1: big_integer(numbers.p),
            Attribute.PRIME_2: big_integer(numbers.q),
            Attribute.EXPONENT_1: big_integer(numbers.dmp1),
            Attribute.EXPONENT_2: big_integer(numbers.dmq1),
            Attribute.COEFFICIENT: big_integer(numbers.iqmp),
        }
    if isinstance(private, ec.EllipticCurvePrivateKey):
        size = half.key_type.facts.size_bytes
        return public | {Attribute.VALUE: private.private_numbers().private_value.to_bytes(size)}
    return public | {Attribute.VALUE: private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())}


@contextmanager
def token_errors() -> Iterator[None]:
    """Turn what a token answers into TokenFailure."""
    try:
        yield
    except pkcs11.PKCS11Error as error:
        raise TokenFailure(f"the token answered {name_of(error)}") from None
