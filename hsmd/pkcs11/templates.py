"""Templates: the attributes of every object that hsmd creates, and the attributes that make a key unsafe to adopt.

Each template is packed here once before python-pkcs11 gets it, because a value that cannot be packed corrupts its memory.
"""

from __future__ import annotations

from typing import Any

import pkcs11
from pkcs11 import Attribute, MechanismFlag, ObjectClass
from pkcs11.attributes import AttributeMapper

from hsmd.purposes import Purpose, is_decryption

Template = dict[Attribute, Any]

_mapper = AttributeMapper()

_PROTECTED: Template = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.MODIFIABLE: False,
    Attribute.COPYABLE: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
    Attribute.SIGN_RECOVER: False,
}


def checked(template: Template) -> Template:
    """The template itself. Raises ValueError if one of its values cannot be packed."""
    for attribute, value in template.items():
        try:
            _mapper.pack_attribute(attribute, value)
        except Exception as error:
            raise ValueError(f"{attribute.name} cannot be packed: {type(error).__name__}") from None
    return template


def decrypts(purposes: frozenset[Purpose]) -> bool:
    """Whether a key with this ceiling decrypts; otherwise it signs."""
    return any(is_decryption(purpose) for purpose in purposes)


def capabilities(purposes: frozenset[Purpose]) -> MechanismFlag:
    """The capabilities of a generated pair, for python-pkcs11: either signing or decryption."""
    if decrypts(purposes):
        return MechanismFlag.DECRYPT | MechanismFlag.ENCRYPT
    return MechanismFlag.SIGN | MechanismFlag.VERIFY


def private_key(purposes: frozenset[Purpose]) -> Template:
    """Safe attributes of a private key: it cannot leave the token, has one capability, and cannot be changed."""
    decrypting = decrypts(purposes)
    return checked({**_PROTECTED, Attribute.SIGN: not decrypting, Attribute.DECRYPT: decrypting})


def public_key() -> Template:
    """Attributes of the public key of a pair."""
    return checked({Attribute.MODIFIABLE: False, Attribute.PRIVATE: False})


def named(object_class: ObjectClass, cka_id: bytes, label: str) -> Template:
    """The attributes by which a stored object is found."""
    return checked(
        {Attribute.CLASS: object_class, Attribute.TOKEN: True, Attribute.ID: cka_id, Attribute.LABEL: label}
    )


_UNSAFE: tuple[tuple[Attribute, bool, str], ...] = (
    (Attribute.EXTRACTABLE, True, "extractable"),
    (Attribute.SENSITIVE, False, "not sensitive"),
    (Attribute.PRIVATE, False, "visible without login"),
    (Attribute.MODIFIABLE, True, "modifiable"),
    (Attribute.UNWRAP, True, "may unwrap"),
    (Attribute.DERIVE, True, "may derive"),
    (Attribute.ALWAYS_AUTHENTICATE, True, "requires the PIN for each use"),
)


def unsafe_attributes(key: Any) -> list[str]:
    """Descriptions of an existing private key's unsafe attributes; empty if it is safe."""
    found = [words for attribute, bad, words in _UNSAFE if _flag(key, attribute) is bad]
    if _flag(key, Attribute.SIGN) and _flag(key, Attribute.DECRYPT):
        found.append("may sign and decrypt")
    return found


def may(key: Any, attribute: Attribute) -> bool:
    """Whether a boolean attribute exists and is true."""
    return _flag(key, attribute) is True


def _flag(key: Any, attribute: Attribute) -> bool | None:
    """The value of a boolean attribute, None if the token does not have it."""
    try:
        return bool(key[attribute])
    except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive, pkcs11.FunctionFailed):
        return None
