"""Private keys in PEM files: finding the one in a file, reading it, and converting it to PKCS#11 attributes.

Used only by the one-shot import worker on the token's own host. Every error names the fix; none contains file content.
"""

from __future__ import annotations

import re
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pkcs11 import Attribute

from hsmd.algorithms import KeyType
from hsmd.errors import BadRequest
from hsmd.pkcs11.public_keys import PublicHalf, big_integer, public_attributes

MAX_PEM_BYTES = 65_536
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----\r?\n.*?-----END \1-----", re.DOTALL)
_READABLE = (b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY")


def read_private_key(pem: bytes, passphrase: bytes | None) -> tuple[PublicHalf, dict[Attribute, Any]]:
    """(public half, private attributes) of the one private key in `pem`; other PEM blocks are ignored.

    Accepts PKCS#8 and the traditional RSA and EC formats, encrypted or not. Raises BadRequest naming the fix.
    """
    block = _the_block(pem)
    try:
        private = load_pem_private_key(block, passphrase)
    except TypeError:
        raise BadRequest(_passphrase_advice(passphrase)) from None
    except (ValueError, UnsupportedAlgorithm):
        if passphrase is not None:
            raise BadRequest(
                "passphrase: it is wrong, or the key is damaged; check it with `openssl pkey -in FILE`"
            ) from None
        raise BadRequest(
            "pem: the private key is damaged; check it with `openssl pkey -in FILE -check`"
        ) from None
    half = PublicHalf.of(private.public_key())
    if half is None:
        served = ", ".join(kind.value for kind in KeyType)
        raise BadRequest(f"pem: hsmd does not serve keys of this type or size; it serves {served}")
    return half, _private_attributes(private, half)


def _the_block(pem: bytes) -> bytes:
    if len(pem) > MAX_PEM_BYTES:
        raise BadRequest(
            f"pem: the file is larger than {MAX_PEM_BYTES} bytes; give one with the private key alone"
        )
    found = {match[1]: match[0] for match in _BLOCK.finditer(pem) if match[1] in _READABLE}
    count = sum(match[1] in _READABLE for match in _BLOCK.finditer(pem))
    if count == 1:
        return next(iter(found.values()))
    if count > 1:
        raise BadRequest(f"pem: the file holds {count} private keys; give a file with one")
    raise BadRequest(_why_none(pem))


def _why_none(pem: bytes) -> str:
    labels = {match[1] for match in _BLOCK.finditer(pem)}
    if b"OPENSSH PRIVATE KEY" in labels:
        return "pem: this is an OpenSSH private key; convert a copy with `ssh-keygen -p -m PKCS8 -f COPY`"
    if b"HSMD KEY REFERENCE" in labels:
        return "pem: this is a reference to a key in a token, not a private key; there is nothing to import"
    if labels:
        held = ", ".join(sorted(label.decode() for label in labels))
        return f"pem: the file holds {held} and no private key; give the file with the private key"
    if pem[:1] == b"\x30":
        return "pem: this is DER; convert it with `openssl pkey -inform DER -in FILE -out FILE.pem`"
    return "pem: the file is not PEM; it must hold a block that begins with -----BEGIN PRIVATE KEY-----"


def _passphrase_advice(passphrase: bytes | None) -> str:
    if passphrase is None:
        return (
            "passphrase: the private key is encrypted; give the file with its passphrase (--passphrase-file)"
        )
    return "passphrase: the private key is not encrypted; leave the passphrase out"


def _private_attributes(private: Any, half: PublicHalf) -> dict[Attribute, Any]:
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
