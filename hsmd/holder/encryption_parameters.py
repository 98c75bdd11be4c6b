"""What an encrypted key file asks of the machine, read before it is decrypted: iterations of a hash, memory of scrypt.

An iteration count is a number in the file. Whoever made the file could have a reader hash for days, so the counts are added up
and bounded. Structures: PKCS#8 (RFC 5958), PBES1 and PBES2 (RFC 8018), scrypt (RFC 7914), PKCS#12 (RFC 7292) and its PBMAC1
(RFC 9579).
"""

from __future__ import annotations

from typing import NamedTuple

from hsmd.errors import BadRequest, PurposeMismatch
from hsmd.purposes.asn1 import CONTEXT_0, INTEGER, OBJECT_IDENTIFIER, SEQUENCE, DerReader

MAX_ITERATIONS = 10_000_000
"""Of one file, all of its parts together: seconds of one processor."""
MAX_SCRYPT_BYTES = 1 << 28
MAX_SCRYPT_WORK = 1 << 24
"""Of N times r times p."""

_OCTET_STRING = 0x04
_PBES2 = "2a864886f70d01050d"
_PBKDF2 = "2a864886f70d01050c"
_PBMAC1 = "2a864886f70d01050e"
_SCRYPT = "2b06010401da47040b"
_PKCS5, _PKCS12_PBE = "2a864886f70d0105", "2a864886f70d010c01"
_DATA, _ENCRYPTED_DATA = "2a864886f70d010701", "2a864886f70d010706"
_SHROUDED_KEY = "2a864886f70d010c0a0102"


class _Budget:
    """Counts what a file asks for. Raises BadRequest as soon as it is too much."""

    def __init__(self) -> None:
        self._left = MAX_ITERATIONS

    def spend(self, iterations: int) -> None:
        self._left -= iterations
        if self._left < 0:
            raise BadRequest(
                f"the file asks for more than {MAX_ITERATIONS:,} iterations of its password hash; "
                "write it anew with a lower count"
            )

    def scrypt(self, cost: int, block: int, parallel: int) -> None:
        if 128 * cost * block > MAX_SCRYPT_BYTES or cost * block * parallel > MAX_SCRYPT_WORK:
            raise BadRequest("the file asks for too much memory or time for scrypt; write it anew with less")


def check_pkcs8(der: bytes) -> None:
    """Raises BadRequest if an EncryptedPrivateKeyInfo asks for too much, or is not one."""
    try:
        _encrypted_key(DerReader(der, "an encrypted private key"), _Budget())
    except PurposeMismatch as fault:
        raise BadRequest(f"the encrypted key is damaged: {fault.text}; copy the file again") from None


class Pkcs12(NamedTuple):
    """What is seen of a PFX without its passphrase."""

    key: bytes
    """The first EncryptedPrivateKeyInfo outside of encrypted parts; empty if there is none."""
    has_encrypted_parts: bool
    """Whether it has parts in which further keys may ask for any work."""


def check_pkcs12(der: bytes) -> Pkcs12:
    """Raises BadRequest if what can be seen of a PFX asks for too much, or it is not one in DER."""
    budget = _Budget()
    try:
        pfx = DerReader(der, "a PKCS#12 file").enter(SEQUENCE)
        pfx.content(INTEGER)
        safes = _explicit_data(pfx.enter(SEQUENCE))
        if pfx.next_tag() is not None:
            _mac(pfx.enter(SEQUENCE), budget)
        return _safes(safes, budget)
    except PurposeMismatch as fault:
        raise BadRequest(
            f"not a PKCS#12 file in DER: {fault.text}; write it anew with: openssl pkcs12 -export"
        ) from None


def _mac(mac: DerReader, budget: _Budget) -> None:
    algorithm = mac.enter(SEQUENCE).enter(SEQUENCE)
    if algorithm.content(OBJECT_IDENTIFIER).hex() == _PBMAC1:
        _derivation(algorithm.enter(SEQUENCE).enter(SEQUENCE), budget)
        return
    mac.content(_OCTET_STRING)
    budget.spend(_number(mac) if mac.next_tag() is not None else 1)


def _safes(content: bytes, budget: _Budget) -> Pkcs12:
    keys: list[bytes] = []
    encrypted = False
    safes = DerReader(content, "a PKCS#12 file").enter(SEQUENCE)
    while safes.next_tag() is not None:
        safe = safes.enter(SEQUENCE)
        kind = safe.content(OBJECT_IDENTIFIER).hex()
        if kind == _DATA:
            keys += _bags(safe.enter(CONTEXT_0).content(_OCTET_STRING), budget)
        elif kind == _ENCRYPTED_DATA:
            encrypted = True
            data = safe.enter(CONTEXT_0).enter(SEQUENCE)
            data.content(INTEGER)
            info = data.enter(SEQUENCE)
            info.content(OBJECT_IDENTIFIER)
            _algorithm(info.enter(SEQUENCE), budget)
        else:
            raise safes.mismatch("a part that is not encrypted with a password")
    return Pkcs12(keys[0] if keys else b"", encrypted)


def _bags(content: bytes, budget: _Budget) -> list[bytes]:
    """The encrypted keys in it."""
    keys = []
    bags = DerReader(content, "a PKCS#12 file").enter(SEQUENCE)
    while bags.next_tag() is not None:
        bag = bags.enter(SEQUENCE)
        if bag.content(OBJECT_IDENTIFIER).hex() == _SHROUDED_KEY:
            keys.append(bag.enter(CONTEXT_0).whole(SEQUENCE))
            _encrypted_key(DerReader(keys[-1], "an encrypted private key"), budget)
    return keys


def _explicit_data(info: DerReader) -> bytes:
    """The content of a ContentInfo of the type data."""
    if info.content(OBJECT_IDENTIFIER).hex() != _DATA:
        raise info.mismatch("its content is signed, not protected by a password")
    return info.enter(CONTEXT_0).content(_OCTET_STRING)


def _encrypted_key(reader: DerReader, budget: _Budget) -> None:
    _algorithm(reader.enter(SEQUENCE).enter(SEQUENCE), budget)


def _algorithm(algorithm: DerReader, budget: _Budget) -> None:
    """The encryption scheme of an AlgorithmIdentifier: PBES2, PBES1, or one of PKCS#12."""
    oid = algorithm.content(OBJECT_IDENTIFIER).hex()
    if oid == _PBES2:
        _derivation(algorithm.enter(SEQUENCE).enter(SEQUENCE), budget)
    elif oid.startswith((_PKCS5, _PKCS12_PBE)):
        _salted(algorithm.enter(SEQUENCE), budget)
    else:
        raise BadRequest("the key is encrypted in a way that hsmd does not know; write it anew with PBES2")


def _derivation(function: DerReader, budget: _Budget) -> None:
    """A key derivation function: PBKDF2 or scrypt."""
    oid = function.content(OBJECT_IDENTIFIER).hex()
    parameters = function.enter(SEQUENCE)
    if oid == _PBKDF2:
        _salted(parameters, budget)
    elif oid == _SCRYPT:
        parameters.content(_OCTET_STRING)
        budget.scrypt(_number(parameters), _number(parameters), _number(parameters))
    else:
        raise BadRequest(
            "the key of the file is derived in a way that hsmd does not know; write it anew with PBKDF2"
        )


def _salted(parameters: DerReader, budget: _Budget) -> None:
    parameters.content(_OCTET_STRING)
    budget.spend(_number(parameters))


def _number(reader: DerReader) -> int:
    content = reader.content(INTEGER)
    if not 0 < len(content) <= 8 or content[0] & 0x80:
        raise BadRequest("the file asks for an absurd number of iterations; write it anew with a lower count")
    return int.from_bytes(content)
