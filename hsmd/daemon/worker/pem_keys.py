"""Private keys in PEM files: reading the one in a file, and converting it to PKCS#11 attributes.

Used only by the one-shot import worker on the token's own host. Every error names the fix; none contains file content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)
from pkcs11 import Attribute

from hsmd.daemon.worker import pem_text, pkcs8_encryption
from hsmd.daemon.worker.pem_text import KeyBlock
from hsmd.daemon.worker.private_key_der import Checked, PrivateKey, from_pkcs1, from_pkcs8, from_sec1
from hsmd.errors import BadRequest
from hsmd.pkcs11.public_keys import PublicHalf, big_integer, public_attributes

_TRADITIONAL = {pem_text.RSA: from_pkcs1, pem_text.EC: from_sec1}


@dataclass(frozen=True, slots=True)
class KeyToImport:
    """A private key for the token: public half, private attributes, and why it is weak, if that was accepted."""

    half: PublicHalf
    attributes: dict[Attribute, Any]
    weaknesses: list[str]


def read_private_key(content: bytes, passphrase: bytes | None, *, accept_weak: bool = False) -> KeyToImport:
    """The one private key in a PEM file; other PEM blocks are ignored.

    Accepts PKCS#8 and the traditional RSA and EC formats, encrypted or not. Raises BadRequest naming the fix, also for a weak
    key unless `accept_weak`.
    """
    checked = _checked(pem_text.the_private_key(content), passphrase)
    half = PublicHalf.of(checked.private.public_key())
    assert half is not None, "other types are refused with their name"
    if checked.weaknesses and not accept_weak:
        raise BadRequest(
            f"pem: the key is weak: {', and '.join(checked.weaknesses)}; make a new key, or repeat with --accept-weak"
        )
    return KeyToImport(half, _private_attributes(checked.private, half), checked.weaknesses)


def _checked(block: KeyBlock, passphrase: bytes | None) -> Checked:
    if passphrase == b"":
        raise BadRequest("passphrase: the passphrase file is empty; write the passphrase into it")
    if (block.der is None or block.label == pem_text.ENCRYPTED_PKCS8) and passphrase is None:
        raise BadRequest(
            "passphrase: the private key is encrypted; give the file with its passphrase (--passphrase-file)"
        )
    if block.der is not None and block.label != pem_text.ENCRYPTED_PKCS8:
        if passphrase is not None:
            raise BadRequest("passphrase: the private key is not encrypted; leave the passphrase out")
        return _TRADITIONAL.get(block.label, from_pkcs8)(block.der)
    assert passphrase is not None
    return _decrypted(block, passphrase)


def _decrypted(block: KeyBlock, passphrase: bytes) -> Checked:
    try:
        if block.der is None:
            return from_pkcs8(_encoded(load_pem_private_key(block.pem, passphrase)))
        return from_pkcs8(_pkcs8(block.der, passphrase))
    except UnsupportedAlgorithm:
        raise BadRequest(
            "pem: the private key is encrypted with a cipher that hsmd does not read; encrypt a copy anew with "
            "`openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out COPY`"
        ) from None
    except (ValueError, TypeError):
        raise BadRequest(_wrong_passphrase(passphrase)) from None


def _pkcs8(document: bytes, passphrase: bytes) -> bytes:
    """The DER PrivateKeyInfo in an encrypted one; of older kinds of encryption, as cryptography encodes it."""
    try:
        return pkcs8_encryption.decrypt(document, passphrase)
    except UnsupportedAlgorithm:
        return _encoded(load_der_private_key(document, passphrase))


def _encoded(private: Any) -> bytes:
    der: bytes = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return der


def _wrong_passphrase(passphrase: bytes) -> str:
    hint = ""
    if passphrase.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        hint = " (the passphrase file begins with a byte order mark: remove it)"
    elif b"\n" in passphrase:
        hint = " (the passphrase file has more than one line)"
    elif passphrase != passphrase.strip():
        hint = " (the passphrase file has white space at an end)"
    return f"passphrase: it is wrong{hint}, or the key is damaged; check it with `openssl pkey -in FILE`"


def _private_attributes(private: PrivateKey, half: PublicHalf) -> dict[Attribute, Any]:
    public = public_attributes(half)
    public.pop(Attribute.EC_POINT, None)
    if isinstance(private, rsa.RSAPrivateKey):
        return public | _rsa_attributes(private)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        value = private.private_numbers().private_value.to_bytes(half.key_type.facts.size_bytes, "big")
    else:
        value = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return public | {Attribute.VALUE: value}


def _rsa_attributes(private: rsa.RSAPrivateKey) -> dict[Attribute, Any]:
    numbers = private.private_numbers()
    return {
        Attribute.PRIVATE_EXPONENT: big_integer(numbers.d),
        Attribute.PRIME_1: big_integer(numbers.p),
        Attribute.PRIME_2: big_integer(numbers.q),
        Attribute.EXPONENT_1: big_integer(numbers.dmp1),
        Attribute.EXPONENT_2: big_integer(numbers.dmq1),
        Attribute.COEFFICIENT: big_integer(numbers.iqmp),
    }
