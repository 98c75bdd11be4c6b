"""Finds out what a token does with wrapped keys, by having it open what was wrapped in software.

The RSA key of the probe is printed below and protects nothing. A token that imports no private keys makes a pair of its own
for the probe, which takes much longer.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from typing import Any

import pkcs11
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from pkcs11 import Attribute, KeyType as KeyKind, Mechanism, MechanismFlag, ObjectClass

from hsmd.envelopes import rsa_aes_kwp
from hsmd.envelopes.header import Suite
from hsmd.envelopes.rsa_aes_kwp import AES_KEY_BYTES, MAC_MESSAGE
from hsmd.pkcs11 import templates
from hsmd.pkcs11.public_keys import PublicHalf, big_integer, read_public_half
from hsmd.pkcs11.wrapping import OAEP, Wrapping, mac_of_tag, temporary, unwrap_aes

_KWP = (Mechanism.AES_KEY_WRAP_KWP, Mechanism.AES_KEY_WRAP_PAD)
"""RFC 5649 has the first number since PKCS #11 3.1; SoftHSM does it under the second (softhsm/SoftHSMv2#726)."""
_ABILITY = {
    Suite.RSA_OAEP_SHA1_KWP: "rsa-oaep-sha1",
    Suite.RSA_OAEP_SHA256_KWP: "rsa-oaep-sha256",
    Mechanism.AES_KEY_WRAP_KWP: "aes-kwp-0x210b",
    Mechanism.AES_KEY_WRAP_PAD: "aes-kwp-0x210a",
    Mechanism.AES_KEY_WRAP: "aes-key-wrap",
}
_BITS = 2_048
_P = int(
    "f8672e4feeeaeda9d58b2d16de3595ee05247820024ce38a958258a4c0ab2507b489097e145c3dccbcc93293ea650e5e"
    "b53ee450b111a82e2a8254fa16976868c2a9865e939832b35ef577d3a4c4b438be72dfe414a650062b933b667b79ccd9"
    "67313df348f6437d9a1efa0f0bc7f7b61905931ee89c154b09a0e02b336eae8f",
    16,
)
_Q = int(
    "dd9dd2af7a0983fa6c9a43f256eb7bea9d35554fae9c0b43cbc7402dd6d269331ee142af0af54979e7ebc66663f6fff7"
    "053f390331be72d895cd8b0a4dfcd0722d3ea0117c597aeb6d8f82623f793ea8fdfc85d58fd24508bb9e25f603c5fd9a"
    "58bf91c5f7db8e1a8d3d0a9497dcfde77f40e0aa0982560698a2c6e7a2dfba95",
    16,
)


def probe(session: Any) -> Wrapping:
    """What this token does with wrapped keys. The session must be read-write; nothing stays.

    No error: what fails is not an ability.
    """
    pair = _tried(lambda: _imported(session)) or _tried(lambda: _generated(session))
    if pair is None:
        return Wrapping()
    public, private = pair
    with temporary(public), temporary(private):
        half = _tried(lambda: read_public_half(public))
        return Wrapping() if half is None else _found(public, private, half)


def _found(public: Any, private: Any, half: PublicHalf) -> Wrapping:
    aes_key = os.urandom(AES_KEY_BYTES)
    suites: list[Suite] = []
    aes_mechanisms: set[Mechanism] = set()
    for suite in OAEP:
        opened = _tried_oaep(private, suite, rsa_aes_kwp.oaep_encrypt(half.public_key, suite, aes_key))
        if opened is None:
            continue
        with temporary(opened):
            aes_mechanisms |= _known_aes_mechanisms(opened, aes_key)
            if _wraps_what_it_opens(public, private, suite, opened):
                suites.append(suite)
    kwp = next((each for each in _KWP if each in aes_mechanisms), None)
    abilities = tuple(name for each, name in _ABILITY.items() if each in suites or each in aes_mechanisms)
    return Wrapping(frozenset(suites) if kwp else frozenset(), kwp, abilities)


def _known_aes_mechanisms(aes_object: Any, aes_key: bytes) -> set[Mechanism]:
    """Those under which the token opens what RFC 5649, and for CKM_AES_KEY_WRAP RFC 3394, make in software."""
    secret = os.urandom(32)
    right = hmac.digest(secret, MAC_MESSAGE, "sha256")
    wrapped = dict.fromkeys(_KWP, rsa_aes_kwp.kwp_wrap(aes_key, secret))
    wrapped[Mechanism.AES_KEY_WRAP] = aes_key_wrap(aes_key, secret)
    return {
        mechanism for mechanism, data in wrapped.items() if _tried_mac(aes_object, mechanism, data) == right
    }


def _wraps_what_it_opens(public: Any, private: Any, suite: Suite, aes_object: Any) -> bool:
    def wrap() -> bytes:
        oaep: bytes = public.wrap_key(
            aes_object, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=OAEP[suite]
        )
        return oaep

    oaep = _tried(wrap)
    again = None if oaep is None else _tried_oaep(private, suite, oaep)
    if again is None:
        return False
    with temporary(again):
        return True


def _tried_oaep(private: Any, suite: Suite, oaep: bytes) -> Any | None:
    return _tried(lambda: unwrap_aes(private, suite, oaep, extractable=True))


def _tried_mac(aes_object: Any, mechanism: Mechanism, data: bytes) -> bytes | None:
    mac: bytes | None = _tried(lambda: mac_of_tag(aes_object, mechanism, data))
    return mac


def _tried(call: Callable[[], Any]) -> Any | None:
    """The result, None if the token refuses."""
    try:
        return call()
    except (pkcs11.PKCS11Error, NotImplementedError):
        return None


def _imported(session: Any) -> tuple[Any, Any]:
    d = pow(65_537, -1, (_P - 1) * (_Q - 1))
    half = PublicHalf.of(rsa.RSAPublicNumbers(65_537, _P * _Q).public_key())
    assert half is not None
    private = session.create_object(
        templates.checked(
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: KeyKind.RSA,
                Attribute.TOKEN: False,
                Attribute.UNWRAP: True,
                **templates.probing_private_key(),
                Attribute.MODULUS: big_integer(_P * _Q),
                Attribute.PUBLIC_EXPONENT: big_integer(65_537),
                Attribute.PRIVATE_EXPONENT: big_integer(d),
                Attribute.PRIME_1: big_integer(_P),
                Attribute.PRIME_2: big_integer(_Q),
                Attribute.EXPONENT_1: big_integer(d % (_P - 1)),
                Attribute.EXPONENT_2: big_integer(d % (_Q - 1)),
                Attribute.COEFFICIENT: big_integer(pow(_Q, -1, _P)),
            }
        )
    )
    try:
        return session.create_object(templates.wrapping_public_key(half)), private
    except BaseException:
        private.destroy()
        raise


def _generated(session: Any) -> tuple[Any, Any]:
    pair: tuple[Any, Any] = session.generate_keypair(
        KeyKind.RSA,
        _BITS,
        store=False,
        capabilities=MechanismFlag.WRAP | MechanismFlag.UNWRAP,
        private_template=templates.probing_private_key(),
    )
    return pair
