"""What comes out of an envelope, from tokens that do something else than they were told."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from hsmd.envelopes.header import Suite
from hsmd.errors import EnvelopeInvalid
from hsmd.pkcs11 import templates, wrapping
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.purposes import Purpose

KWP = Mechanism.AES_KEY_WRAP_PAD
SIGNS = frozenset({Purpose.TLS13_SERVER})


class Made(dict[Attribute, Any]):
    """An object of the token."""

    destroyed = False

    def destroy(self) -> None:
        self.destroyed = True


class Key:
    """Unwraps to an object with the attributes of the template, but for `changes`."""

    def __init__(self, **changes: Any) -> None:
        self.changes = {Attribute[name]: value for name, value in changes.items()}
        self.made = Made()
        self.asked: dict[str, Any] = {}

    def unwrap_key(self, object_class: Any, key_type: Any, _wrapped: bytes, **asked: Any) -> Made:
        self.asked = asked
        attributes = {
            Attribute.CLASS: object_class,
            Attribute.KEY_TYPE: key_type,
            Attribute.TOKEN: asked["store"],
        }
        self.made.update({**attributes, **asked["template"], **self.changes})
        return self.made


class Session:
    def generate_random(self, _bits: int) -> bytes:
        return bytes(8)


def unwrap(key: Key) -> Any:
    half = PublicHalf.of(ec.generate_private_key(ec.SECP256R1()).public_key())
    assert half is not None
    template = templates.unwrapped_private_key(SIGNS)
    return wrapping.unwrap_private_key(Session(), key, KWP, b"", half, template, store=True)


def test_a_private_key_as_it_was_asked_for_is_taken() -> None:
    key = Key()
    assert unwrap(key) is key.made
    assert not key.made.destroyed


@pytest.mark.parametrize(
    "changes",
    [
        {"EXTRACTABLE": True},
        {"SENSITIVE": False},
        {"PRIVATE": False},
        {"DECRYPT": True},
        {"UNWRAP": True},
        {"MODIFIABLE": True},
        {"TOKEN": False},
        {"KEY_TYPE": KeyType.RSA},
        {"CLASS": ObjectClass.SECRET_KEY},
    ],
    ids=str,
)
def test_a_private_key_that_can_do_more_is_destroyed(changes: dict[str, Any]) -> None:
    key = Key(**changes)
    with pytest.raises(EnvelopeInvalid):
        unwrap(key)
    assert key.made.destroyed


def test_the_aes_key_of_an_envelope_only_unwraps_and_stays_in_the_session() -> None:
    key = Key()
    wrapping.unwrap_aes(key, Suite.RSA_OAEP_SHA1_KWP, b"")
    assert (key.asked["store"], key.asked["capabilities"]) == (False, MechanismFlag.UNWRAP)
    assert (key.made[Attribute.EXTRACTABLE], key.made[Attribute.SENSITIVE]) == (False, True)
