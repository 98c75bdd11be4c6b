"""Keys that an owner brings for a deposit: a private key from a PEM or PKCS#12 file, or the bytes of a symmetric key.

Every error is BadRequest and names the fix; none contains anything of the file.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
    pkcs12,
)

from hsmd.envelopes import content as contents
from hsmd.errors import BadRequest
from hsmd.holder import encryption_parameters
from hsmd.holder.file_encryption import PassphraseRefused

MAX_FILE_BYTES = 262_144
MIN_RSA_BITS, MAX_RSA_BITS = 2_048, 8_192
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_BLOCK = re.compile(rb"-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----\r?\n(.*?)-----END \1-----", re.DOTALL)
_ENCRYPTED = "ENCRYPTED PRIVATE KEY"

PrivateKey = (
    rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey
)


@dataclass(frozen=True, slots=True)
class PrivateKeyToDeposit:
    """A private key in memory: the library's object, and PKCS#8 in DER, not encrypted."""

    private: PrivateKey = field(repr=False)
    pkcs8: bytes = field(repr=False)

    @property
    def spki(self) -> bytes:
        """Its public half, SubjectPublicKeyInfo in DER."""
        return self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class PassphraseNeeded(BadRequest):
    """The file is encrypted, and no passphrase was given."""


def of_private_key(private: object) -> PrivateKeyToDeposit:
    """The key to deposit of an object of `cryptography`. Raises BadRequest for a kind or size that is not taken."""
    if isinstance(private, rsa.RSAPrivateKey):
        if not MIN_RSA_BITS <= private.key_size <= MAX_RSA_BITS:
            raise _unsupported(f"an RSA key of {private.key_size} bits")
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        if not isinstance(private.curve, _CURVES):
            raise _unsupported(f"an EC key on the curve {private.curve.name}")
    elif not isinstance(private, ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey):
        raise _unsupported(f"a key of the type {type(private).__name__.removesuffix('PrivateKey')}")
    pkcs8 = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    if contents.spki_digest(pkcs8) is None:
        raise BadRequest("the two halves of the private key do not belong together; copy the file again")
    return PrivateKeyToDeposit(private, pkcs8)


def from_pkcs8(pkcs8: bytes) -> PrivateKeyToDeposit:
    """The key in PKCS#8 that came out of an envelope or a token. Raises BadRequest."""
    try:
        return of_private_key(load_der_private_key(pkcs8, None, unsafe_skip_rsa_key_validation=True))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadRequest("not a private key in DER") from None


def from_file(content: bytes, passphrase: bytes | None) -> PrivateKeyToDeposit:
    """The one private key in a PEM file (PKCS#8, PKCS#1, SEC 1), a PKCS#8 file in DER, or a PKCS#12 file.

    Raises PassphraseNeeded, PassphraseRefused or BadRequest.
    """
    if len(content) > MAX_FILE_BYTES:
        raise BadRequest(f"the key file has more than {MAX_FILE_BYTES} bytes; give the file of one key")
    if b"-----BEGIN " in content:
        return _from_pem(content, passphrase)
    if content[:1] == b"\x30":
        return _from_der(content, passphrase)
    raise BadRequest("the key file is neither PEM nor PKCS#12 nor PKCS#8; give a file with a private key")


def secret_from(content: bytes, encoding: str) -> bytes:
    """The bytes of a symmetric key in a file: `raw`, or text as `hex` or `base64`. Raises BadRequest."""
    try:
        if encoding == "raw":
            secret = content
        elif encoding == "hex":
            secret = binascii.unhexlify(content.strip())
        else:
            secret = base64.b64decode(content.strip(), validate=True)
    except ValueError:
        raise BadRequest(f"the key file is not {encoding}; name its encoding (raw, hex or base64)") from None
    if len(secret) not in contents.SECRET_KEY_BYTES:
        raise BadRequest(
            f"a symmetric key has 16, 24, 32, 40, 48, 56 or 64 bytes, and this one {len(secret)}; if it is text, "
            "name its encoding (hex or base64)"
        )
    return secret


def _from_pem(content: bytes, passphrase: bytes | None) -> PrivateKeyToDeposit:
    blocks = list(_BLOCK.finditer(content))
    if not blocks:
        raise BadRequest("there is no private key in the PEM file; give the file with the private half")
    if len(blocks) > 1:
        raise BadRequest(f"there are {len(blocks)} private keys in the PEM file; give a file with one")
    label, pem = blocks[0][1].decode(), blocks[0][0]
    if label == "OPENSSH PRIVATE KEY":
        raise BadRequest(
            "this is a private key of OpenSSH; write a copy of it as PEM with: ssh-keygen -p -m PKCS8 -f COPY"
        )
    encrypted = label == _ENCRYPTED or b"Proc-Type: 4,ENCRYPTED" in pem
    if label == _ENCRYPTED:
        encryption_parameters.check_pkcs8(_der_of(blocks[0][2]))
    return _loaded(
        lambda word: load_pem_private_key(pem + b"\n", word, unsafe_skip_rsa_key_validation=True),
        encrypted,
        passphrase,
    )


def _der_of(body: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except ValueError:
        raise BadRequest("the PEM file is damaged: it is not base64; copy it again") from None


def _from_der(content: bytes, passphrase: bytes | None) -> PrivateKeyToDeposit:
    start = content[4 if content[1] == 0x82 else 3 if content[1] == 0x81 else 2 :]
    if start[:3] == b"\x02\x01\x03":  # the version of a PFX
        seen = encryption_parameters.check_pkcs12(content)
        if passphrase is None:
            raise PassphraseNeeded("the PKCS#12 file is encrypted; give its passphrase")
        return _loaded(lambda word: _key_of_pkcs12(content, seen, word), True, passphrase)
    if start[:1] == b"\x02":
        return _loaded(
            lambda word: load_der_private_key(content, word, unsafe_skip_rsa_key_validation=True),
            False,
            passphrase,
        )
    encryption_parameters.check_pkcs8(content)
    return _loaded(
        lambda word: load_der_private_key(content, word, unsafe_skip_rsa_key_validation=True),
        True,
        passphrase,
    )


def _key_of_pkcs12(content: bytes, seen: encryption_parameters.Pkcs12, passphrase: bytes | None) -> object:
    """The private key. Encrypted parts, which usually hold certificates, are not opened: a key in one could ask for any work."""
    if seen.has_encrypted_parts:
        if not seen.key:
            raise BadRequest(
                "there is no private key in the PKCS#12 file outside of its encrypted parts; write it anew with: openssl pkcs12 "
                "-export"
            )
        return load_der_private_key(seen.key, passphrase, unsafe_skip_rsa_key_validation=True)
    private, _, _ = pkcs12.load_key_and_certificates(content, passphrase)
    if private is None:
        raise BadRequest("there is no private key in the PKCS#12 file; export it with its key")
    return private


def _loaded(
    load: Callable[[bytes | None], object], encrypted: bool, passphrase: bytes | None
) -> PrivateKeyToDeposit:
    if encrypted and passphrase is None:
        raise PassphraseNeeded("the key file is encrypted; give its passphrase")
    if not encrypted and passphrase is not None:
        raise BadRequest("the key file is not encrypted; leave the passphrase out")
    try:
        private = load(passphrase)
    except (ValueError, TypeError):
        if encrypted:
            raise PassphraseRefused(
                "the passphrase does not open the key file, or the file is damaged; try again"
            ) from None
        raise BadRequest("the key file is damaged, or of a kind that is not known; copy it again") from None
    except UnsupportedAlgorithm:
        raise BadRequest(
            "the key file is of a kind or encryption that is not known; write it anew with: openssl pkcs8 -topk8"
        ) from None
    return of_private_key(private)


def _unsupported(what: str) -> BadRequest:
    return BadRequest(
        f"{what} is not taken; keys are RSA ({MIN_RSA_BITS} to {MAX_RSA_BITS} bits), P-256, P-384, P-521, Ed25519 or X25519"
    )


def generate(kind: str) -> PrivateKeyToDeposit:
    """A new private key: `rsa-2048`, `rsa-3072`, `rsa-4096`, `p-256`, `p-384`, `p-521`, `ed25519` or `x25519`."""
    family, _, size = kind.partition("-")
    if family == "rsa":
        return of_private_key(rsa.generate_private_key(65_537, int(size)))
    if family == "p":
        curve = next(each for each in _CURVES if each.key_size == int(size))
        return of_private_key(ec.generate_private_key(curve()))
    if kind == "ed25519":
        return of_private_key(ed25519.Ed25519PrivateKey.generate())
    return of_private_key(x25519.X25519PrivateKey.generate())


def encoded(pkcs8: bytes, *, der: bool, passphrase: bytes | None) -> bytes:
    """An acquired private key as a file has it: PKCS#8 in PEM or DER, encrypted if there is a passphrase."""
    if passphrase is None and der:
        return pkcs8
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    encoding = Encoding.DER if der else Encoding.PEM
    return from_pkcs8(pkcs8).private.private_bytes(encoding, PrivateFormat.PKCS8, encryption)
