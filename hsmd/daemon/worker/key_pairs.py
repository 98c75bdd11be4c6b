"""Which private key object belongs to which public half: what the objects show, and a proof where that does not decide.

Tokens that other programs have filled hold objects that share a CKA_ID, public keys of other keys, and objects that hide
attributes. A private key proves itself by one use of a random challenge: a signature that is verified with each public half that
may be its own, or the decryption of what was encrypted for one. Where what is shown leaves one choice, nothing is proved.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pkcs11
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from pkcs11 import Attribute, KeyType as KeyKind, Mechanism, MechanismFlag, ObjectClass

from hsmd.algorithms import Family
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.daemon.worker.signatures import FaultySignature, ecdsa_signature
from hsmd.errors import TokenFailure
from hsmd.pkcs11 import templates
from hsmd.pkcs11.attributes import flag, read
from hsmd.pkcs11.errors import Fault, classify, name_of
from hsmd.pkcs11.mechanisms import DIGEST_INFO, RAW_RSA
from hsmd.pkcs11.public_keys import Fit, PublicHalf, fit
from hsmd.purposes import use_of

MAX_SHARING = 128
"""Private keys that may share CKA_ID and type: each may have to be tried with the public half of each other one."""
_CHALLENGE = b"hsmd: do private and public key belong together?"
_BUFFER_BYTES = 1024
_NOT_FOR_THIS_KEY = (
    pkcs11.DataInvalid,
    pkcs11.DataLenRange,
    pkcs11.EncryptedDataInvalid,
    pkcs11.EncryptedDataLenRange,
    pkcs11.WrappedKeyInvalid,
    pkcs11.WrappedKeyLenRange,
)


class Unproven(TokenFailure):
    """A private key object cannot prove itself; the text says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """The private key object of a ceiling, or None and the problem: why the key is not served.

    `shared` is the number of private key objects that may be it: what they show did not tell them apart, nor did a proof.
    """

    private: Any = None
    problem: str = ""
    shared: int = 1


@dataclass(frozen=True, slots=True)
class _Signed:
    """A signature over `challenge`; `padding` is of an RSA signature."""

    challenge: bytes
    raw: bytes
    padding: Any = None


class KeyPairs:
    """Pairs the objects of one session during one search of the token; remembers what each private key has signed."""

    def __init__(self) -> None:
        self._signed: dict[int, _Signed | Unproven] = {}

    def private_key(self, ceiling: Ceiling, candidates: Sequence[Any], proven: int | None = None) -> Found:
        """The one private key object of a ceiling among the objects with its CKA_ID.

        `proven` is the handle of the object that was found before, if the ceiling and that object have been there ever
        since. Raises PKCS11Error if the token fails, rather than one key.
        """
        half = ceiling.half
        fits = [(fit(private, half), private) for private in candidates]
        fitting = [(how, private) for how, private in fits if how is not Fit.NO]
        if not fitting:
            return Found(None, _nothing_fits(len(candidates)), 0)
        shared = len(fitting)
        for _, private in fitting:
            if private.handle == proven:
                return Found(private, shared=shared)
        if shared == 1 and fitting[0][0] is not Fit.UNKNOWN:
            return _unless_pin_is_needed(fitting[0][1])
        if shared > MAX_SHARING:
            return Found(
                None,
                f"more than {MAX_SHARING} private keys of its type have its CKA_ID; give it one of its own",
                shared,
            )
        return self._proven(half, [private for _, private in _best_first(fitting, ceiling)], shared)

    def half_of(
        self, private: Any, halves: Iterable[PublicHalf], *, prove: bool = False
    ) -> PublicHalf | None:
        """The public half of a private key object among `halves`; None if none of them fits.

        With `prove`, or if more than one fits, the key proves which. Raises Unproven, PKCS11Error.
        """
        distinct = {half.digest: half for half in halves}
        fits = [(fit(private, half), half) for half in distinct.values()]
        fitting = [(how, half) for how, half in fits if how is not Fit.NO]
        if not fitting:
            return None
        if len(fitting) == 1 and fitting[0][0] is not Fit.UNKNOWN and not prove:
            return fitting[0][1]
        return next((half for _, half in fitting if self.proves(private, half)), None)

    def proves(self, private: Any, half: PublicHalf) -> bool:
        """Whether a use of the private key shows that it belongs to `half`.

        Raises Unproven if this key cannot be used, and PKCS11Error if the token fails.
        """
        if flag(private, Attribute.ALWAYS_AUTHENTICATE):
            raise Unproven("it requires the PIN for each use")
        if templates.may(private, Attribute.SIGN):
            return _verifies(self._signature(private), half)
        if half.key_type.facts.family is not Family.RSA:
            raise Unproven("the token does not let it sign")
        if templates.may(private, Attribute.DECRYPT):
            return bool(_of_this_key(lambda: _decrypts(private, half)))
        if templates.may(private, Attribute.UNWRAP):
            return bool(_of_this_key(lambda: _unwraps(private, half)))
        raise Unproven("the token lets it neither sign nor decrypt nor unwrap")

    def _proven(self, half: PublicHalf, privates: Sequence[Any], shared: int) -> Found:
        reasons = []
        for private in privates:
            try:
                if self.proves(private, half):
                    return Found(private, shared=shared)
            except Unproven as unproven:
                reasons.append(unproven.text)
        if reasons:
            return Found(None, f"its private key could not prove itself: {reasons[0]}", shared)
        return Found(None, f"none of {_number(shared)} with its CKA_ID and type belongs to its public key", 0)

    def _signature(self, private: Any) -> _Signed:
        """What this key signed, once. Raises Unproven, PKCS11Error."""
        known = self._signed.get(private.handle)
        if known is None:
            try:
                known = _of_this_key(lambda: _sign(private))
            except Unproven as unproven:
                known = unproven
            self._signed[private.handle] = known
        if isinstance(known, Unproven):
            raise known
        return known


def prove_pair(private: Any, half: PublicHalf) -> None:
    """Raises FaultySignature unless a private key that was just made belongs to `half`, or Unproven, PKCS11Error.

    An RSA key that shows its modulus proves nothing more.
    """
    how = fit(private, half)
    if how is Fit.NO or (how is not Fit.MODULUS and not KeyPairs().proves(private, half)):
        raise FaultySignature("the private key does not belong to the public key")


def _unless_pin_is_needed(private: Any) -> Found:
    if flag(private, Attribute.ALWAYS_AUTHENTICATE):
        return Found(None, "it requires the PIN for each use, which hsmd does not support")
    return Found(private)


def _nothing_fits(with_same_id: int) -> str:
    if not with_same_id:
        return "the private key is not in the token"
    return (
        f"the private key is not in the token; {_number(with_same_id)} with its CKA_ID belong to other keys"
    )


def _number(count: int) -> str:
    return f"{count} private key{'' if count == 1 else 's'}"


def _best_first(fitting: Sequence[tuple[Fit, Any]], ceiling: Ceiling) -> list[tuple[Fit, Any]]:
    """Keys that the token lets do what the ceiling permits come first: a copy may have other attributes."""
    needed = templates.PRIVATE_USES[use_of(ceiling.purposes)]
    return sorted(fitting, key=lambda one: (not templates.may(one[1], needed), -one[0]))


def _of_this_key(use: Callable[[], Any]) -> Any:
    """What `use` returns. Raises Unproven for an error that may be of this key alone, PKCS11Error for others."""
    try:
        return use()
    except pkcs11.PKCS11Error as error:
        if classify(error) in (Fault.KEY_GONE, Fault.POISONED):
            raise
        raise Unproven(f"the token answered {name_of(error)}") from None


# --- proofs ---


def _sign(private: Any) -> _Signed:
    """A signature over a challenge that is the digest of no useful message. A digest of 32 bytes suits every curve."""
    challenge = hashlib.sha256(_CHALLENGE + os.urandom(32)).digest()
    kind = read(private, Attribute.KEY_TYPE)
    if kind == KeyKind.EC:
        return _Signed(challenge, private._sign(challenge, Mechanism.ECDSA, None, None, _BUFFER_BYTES))
    if kind == KeyKind.EC_EDWARDS:
        return _Signed(challenge, private._sign(challenge, Mechanism.EDDSA, None, None, _BUFFER_BYTES))
    if kind != KeyKind.RSA:
        raise Unproven("it is of a type that hsmd does not serve")
    try:
        info = DIGEST_INFO["sha256"] + challenge
        raw = private._sign(info, Mechanism.RSA_PKCS, None, None, _BUFFER_BYTES)
        return _Signed(challenge, raw, padding.PKCS1v15())
    except pkcs11.MechanismInvalid:  # a token for TLS 1.3 alone may lack it
        parameter = (Mechanism.SHA256, pkcs11.MGF.SHA256, 32)
        raw = private._sign(challenge, Mechanism.RSA_PKCS_PSS, parameter, None, _BUFFER_BYTES)
        return _Signed(challenge, raw, padding.PSS(padding.MGF1(hashes.SHA256()), 32))


def _verifies(signed: _Signed, half: PublicHalf) -> bool:
    family, size = half.key_type.facts.family, half.key_type.facts.size_bytes
    verify = half.public_key.verify
    try:
        if family is Family.RSA:
            verify(signed.raw, signed.challenge, signed.padding, Prehashed(hashes.SHA256()))
        elif family is Family.EC:
            verify(ecdsa_signature(signed.raw, size), signed.challenge, ec.ECDSA(Prehashed(hashes.SHA256())))
        else:
            verify(signed.raw, signed.challenge)
    except (InvalidSignature, FaultySignature, ValueError):
        return False
    return True


def _decrypts(private: Any, half: PublicHalf) -> bool:
    """Whether the key raises a random number that was encrypted for `half` to its private exponent."""
    numbers = half.public_key.public_numbers()
    size = half.key_type.facts.size_bytes
    number = int.from_bytes(os.urandom(size), "big") % numbers.n
    block = pow(number, numbers.e, numbers.n).to_bytes(size, "big")
    try:
        plain: bytes = private._decrypt(block, RAW_RSA, None, None, _BUFFER_BYTES)
    except _NOT_FOR_THIS_KEY:  # the modulus is of another size
        return False
    return bool(int.from_bytes(plain, "big") == number)


def _unwraps(private: Any, half: PublicHalf) -> bool:
    """Whether the key unwraps a random secret that was sealed for `half`; OAEP notices any other key."""
    sealed = half.public_key.encrypt(
        os.urandom(32), padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    )
    try:
        secret = private.unwrap_key(
            ObjectClass.SECRET_KEY, KeyKind.AES, sealed, store=False, mechanism=Mechanism.RSA_PKCS_OAEP,
            mechanism_param=(Mechanism.SHA_1, pkcs11.MGF.SHA1, None), capabilities=MechanismFlag.ENCRYPT,
            template=templates.temporary_secret(extractable=False),
        )  # fmt: skip
    except (*_NOT_FOR_THIS_KEY, pkcs11.GeneralError):  # SoftHSM's answer to everything that does not open
        return False
    secret.destroy()
    return True
