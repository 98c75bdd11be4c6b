"""Operations: what a worker can do with one key, as a table (purpose, scheme) -> three prepared steps.

The table is built when the key is opened and contains only uses within the key's ceiling, so there is no code for any other
use. The steps are separate because the token's code evicts ours from the processor's caches: a worker prepares several jobs,
uses the token for all of them, then finishes all, at half the cost of doing the steps job by job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pkcs11 import Attribute

from hsmd.algorithms import SCHEMES, Family, SignatureScheme, schemes_for
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.daemon.worker.premaster import Premaster
from hsmd.daemon.worker.signatures import FaultySignature, WrongKey, checked_size, ecdsa_signature, verifier
from hsmd.errors import PurposeMismatch
from hsmd.pkcs11.mechanisms import DIGEST_INFO, HASHES, RAW_RSA, signing
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.templates import may
from hsmd.purposes import Beside, KeyUse, Purpose, PurposeCheck, use_of

DECRYPTION_SCHEME = 0
_BUFFER_BYTES = 1024
"""Enough for the result of an 8192-bit RSA key; python-pkcs11's default is 8 KiB, allocated for each use."""


class Operation(NamedTuple):
    """The three steps of using a key."""

    prepare: Callable[[bytes], Any]
    """From the bytes that passed the purpose check to the argument of `use`."""
    use: Callable[[Any], bytes]
    """The one call to the token. Raises PKCS11Error."""
    finish: Callable[[Any, bytes], bytes]
    """From the prepared argument and the token's result to the answer. Raises FaultySignature."""

    def run(self, data: bytes) -> bytes:
        """Do all three steps."""
        prepared = self.prepare(data)
        return self.finish(prepared, self.use(prepared))


@dataclass(slots=True)
class OpenKey:
    """A key that is ready for use. `pace_s` estimates how long the token takes for one use."""

    ceiling: Ceiling
    handle: int
    check: Callable[[int, int, bytes], None]
    operations: dict[tuple[int, int], Operation]
    pace_s: float = 1.0

    @property
    def digest(self) -> bytes:
        """SHA-256 of the public key's SubjectPublicKeyInfo."""
        return self.ceiling.half.digest

    def refusal(self, purpose: int, scheme: int, data: bytes) -> PurposeMismatch:
        """Why there is no operation for this purpose and scheme."""
        try:
            self.check(purpose, scheme, data)
        except PurposeMismatch as mismatch:
            return mismatch
        return PurposeMismatch("the key's ceiling does not hold this purpose")


def open_key(private: Any, ceiling: Ceiling, *, verify: str, beside: Beside | None = None) -> OpenKey:
    """Open a private key object and build its table, which is empty for a key that unwraps. `verify` is "rsa" or "all".

    `beside` is what authorities need to know of the token.

    Raises PKCS11Error if the token fails (a decrypting key is used once, see `premaster`).
    """
    half = ceiling.half
    use = use_of(ceiling.purposes)
    operations: dict[tuple[int, int], Operation] = {}
    if use is KeyUse.DECRYPT and may(private, Attribute.DECRYPT):
        operations[int(Purpose.TLS12_RSA_PREMASTER), DECRYPTION_SCHEME] = _premaster(private, half)
    if use is KeyUse.SIGN and may(private, Attribute.SIGN):
        operations = _signing_table(private, half, ceiling.purposes, verify)
    check = PurposeCheck(half.key_type, half.spki, ceiling.constraints, beside).check
    return OpenKey(ceiling, private.handle, check, operations)


def _premaster(private: Any, half: PublicHalf) -> Operation:
    # python-pkcs11's `decrypt` and `sign` check the type of their argument, then call `_decrypt` and `_sign`. Here it is
    # always bytes.
    decrypt = private._decrypt
    modulus = half.public_key.public_numbers().n
    premaster = Premaster(
        lambda block: decrypt(block, RAW_RSA, None, None, _BUFFER_BYTES), modulus, half.digest
    )
    return Operation(premaster.prepare, premaster.use, premaster.finish)


def _signing_table(
    private: Any, half: PublicHalf, purposes: frozenset[Purpose], verify: str
) -> dict[tuple[int, int], Operation]:
    table: dict[tuple[int, int], Operation] = {}
    for scheme in schemes_for(half.key_type):
        for purpose in purposes:
            table[int(purpose), int(scheme)] = signing_operation(
                private, half, scheme, hashed=purpose is Purpose.SIGN_DIGEST, verify=verify
            )
    if verify != "all" and half.key_type.facts.family is not Family.RSA:
        _prove_at_first_use(table, half)
    return table


def _prove_at_first_use(table: dict[tuple[int, int], Operation], half: PublicHalf) -> None:
    """Verify signatures until the first good one: an object of another key may have taken the place of the key's own.

    What an EC private key shows does not tell. Afterwards the table holds operations that do not verify, so that later uses
    cost nothing.
    """
    plain = dict(table)

    def proving(operation: Operation, scheme: int) -> Operation:
        verified = _verified(lambda prepared, signature: signature, half, SignatureScheme(scheme))

        def finish(prepared: bytes, raw: bytes) -> bytes:
            signature = operation.finish(prepared, raw)
            try:
                verified(prepared, signature)
            except FaultySignature as error:
                raise WrongKey(detail=error.detail) from None
            table.update(plain)
            return signature

        return operation._replace(finish=finish)

    for (purpose, scheme), operation in plain.items():
        table[purpose, scheme] = proving(operation, scheme)


def signing_operation(
    private: Any, half: PublicHalf, scheme: SignatureScheme, *, hashed: bool, verify: str
) -> Operation:
    """The operation that signs with `scheme`; with `hashed` it gets the digest. RSA signatures are always verified."""
    facts = SCHEMES[scheme]
    mechanism, parameter = signing(scheme)
    token_sign = private._sign

    def use(prepared: bytes) -> bytes:
        signature: bytes = token_sign(prepared, mechanism, parameter, None, _BUFFER_BYTES)
        return signature

    finish = _finish(half, scheme)
    if verify == "all" or facts.family is Family.RSA:
        finish = _verified(finish, half, scheme)
    return Operation(_prepare(scheme, hashed), use, finish)


def _prepare(scheme: SignatureScheme, hashed: bool) -> Callable[[bytes], bytes]:
    facts = SCHEMES[scheme]
    prefix = DIGEST_INFO[facts.hash] if signing(scheme)[1] is None and facts.family is Family.RSA else b""
    if not facts.hash or (hashed and not prefix):
        return bytes
    if hashed:
        return lambda digest: prefix + digest
    hash_function = HASHES[facts.hash]
    return lambda data: prefix + hash_function(data).digest()


def _finish(half: PublicHalf, scheme: SignatureScheme) -> Callable[[bytes, bytes], bytes]:
    size = half.key_type.facts.size_bytes
    if SCHEMES[scheme].family is Family.EC:
        return lambda prepared, raw: ecdsa_signature(raw, size)
    expected = 64 if SCHEMES[scheme].family is Family.ED25519 else size
    return lambda prepared, raw: checked_size(raw, expected)


def _verified(
    finish: Callable[[bytes, bytes], bytes], half: PublicHalf, scheme: SignatureScheme
) -> Callable[[bytes, bytes], bytes]:
    check = verifier(half, scheme)
    digest_bytes = SCHEMES[scheme].hash_bytes

    def verified(prepared: bytes, raw: bytes) -> bytes:
        signature = finish(prepared, raw)
        check(signature, prepared[-digest_bytes:] if digest_bytes else prepared)
        return signature

    return verified
