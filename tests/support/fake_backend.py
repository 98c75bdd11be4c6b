"""A `Backend` in software for the tests of the worker's loop; it keeps the promises of `backend_contract`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pkcs11
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from pkcs11 import Attribute, Mechanism

from hsmd.algorithms import KeyType
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.daemon.worker.key_index import FIND_INTERVAL_S
from hsmd.daemon.worker.operations import OpenKey, open_key
from hsmd.errors import TokenFailure
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.search import Slices, finish
from hsmd.purposes import Purpose

_HASH_OF_LENGTH: dict[int, hashes.HashAlgorithm] = {
    32: hashes.SHA256(),
    48: hashes.SHA384(),
    64: hashes.SHA512(),
}


class FakeBackend:
    """Keys in this process. `held` is what the token has, `keys` what the last search found."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._missing_until: dict[bytes, float] = {}
        self.held: dict[bytes, OpenKey] = {}
        self.keys: dict[bytes, OpenKey] = {}
        self.scans = self.lookups = 0
        self.session_error: Exception | None = None
        """What the session answers to everything but uses of keys that a test has defined."""
        self.search_error: Exception | None = None

    def scan(self) -> None:
        finish(self.scanning())

    def scanning(self) -> Slices[None]:
        self.scans += 1
        self._search()
        held = dict(self.held)
        yield
        yield
        self.keys = {**{d: k for d, k in self.keys.items() if d in self.held}, **held}

    def looking_up(self, digest: bytes) -> Slices[None]:
        self.lookups += 1
        self._search()
        yield
        if digest in self.held:
            self.keys[digest] = self.held[digest]
        else:
            self.keys.pop(digest, None)

    def forget(self, digest: bytes) -> None:
        self.keys.pop(digest, None)

    def find(self, digest: bytes) -> OpenKey | None:
        if self._clock() >= self._missing_until.get(digest, self._clock()):
            finish(self.looking_up(digest))
            self._missing_until[digest] = self._clock() + FIND_INTERVAL_S
        return self.keys.get(digest)

    def _search(self) -> None:
        self.ping()
        if self.search_error is not None:
            raise self.search_error

    def ping(self) -> None:
        if self.session_error is not None:
            raise self.session_error

    def probe(self) -> None:
        self.ping()
        if self.keys and not set(self.keys) & set(self.held):
            self.scan()
            if not self.keys:
                raise TokenFailure("none of its keys is left")

    def add(self, key_type: KeyType, purposes: frozenset[Purpose], *, verify: str = "all") -> bytes:
        """Put a new key into the token; return its digest."""
        private: Any = (
            ec.generate_private_key(ec.SECP256R1())
            if key_type is KeyType.P256
            else rsa.generate_private_key(65537, key_type.facts.bits)
        )
        half = PublicHalf.of(private.public_key())
        assert half is not None
        ceiling = Ceiling(half, b"id", purposes, b"value")
        self.held[half.digest] = open_key(_PrivateKey(self, private, half.digest), ceiling, verify=verify)
        return half.digest


class _PrivateKey:
    """The parts of python-pkcs11's private key object that signing uses."""

    handle = 1

    def __init__(self, backend: FakeBackend, private: Any, digest: bytes) -> None:
        self._backend = backend
        self._private = private
        self._digest = digest

    def __getitem__(self, attribute: Attribute) -> bool:
        return attribute is Attribute.SIGN

    def _sign(self, data: bytes, mechanism: Mechanism, parameter: object, *_: object) -> bytes:
        self._backend.ping()
        if self._digest not in self._backend.held:
            raise pkcs11.ObjectHandleInvalid
        if mechanism is Mechanism.ECDSA:
            hashed = Prehashed(_HASH_OF_LENGTH[len(data)])
            r, s = decode_dss_signature(self._private.sign(data, ec.ECDSA(hashed)))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        if mechanism is Mechanism.RSA_PKCS_PSS:
            algorithm = _HASH_OF_LENGTH[len(data)]
            pss = padding.PSS(padding.MGF1(algorithm), len(data))
            signature: bytes = self._private.sign(data, pss, Prehashed(algorithm))
            return signature
        return _pkcs1(self._private, data)


def _pkcs1(private: rsa.RSAPrivateKey, data: bytes) -> bytes:
    """RSASSA-PKCS1-v1_5 of a DigestInfo (RFC 8017, section 9.2)."""
    numbers = private.private_numbers()
    n = numbers.public_numbers.n
    size = (n.bit_length() + 7) // 8
    if len(data) > size - 11:
        raise pkcs11.DataLenRange
    block = b"\0\1" + b"\xff" * (size - 3 - len(data)) + b"\0" + data
    return pow(int.from_bytes(block, "big"), numbers.d, n).to_bytes(size, "big")
