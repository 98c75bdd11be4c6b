"""Reading attributes of objects that other programs have made: nothing that a token answers raises, but its own errors.

python-pkcs11 raises ValueError, UnicodeDecodeError or struct.error for values that it does not expect. With `TolerantMapper`
texts come as printable text, numbers of unknown meaning as numbers, and booleans of any length as booleans.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import pkcs11
from pkcs11 import Attribute, CertificateType, KeyType as KeyKind, Mechanism, ObjectClass
from pkcs11.attributes import AttributeMapper

UNREADABLE = (
    pkcs11.AttributeTypeInvalid,
    pkcs11.AttributeSensitive,
    pkcs11.AttributeValueInvalid,
    pkcs11.FunctionFailed,
)
"""Errors of reading an attribute that an object does not have or does not show."""

_TEXTS = (Attribute.LABEL, Attribute.APPLICATION, Attribute.URL, Attribute.UNIQUE_ID)
_ENUMERATIONS: tuple[tuple[Attribute, type[IntEnum]], ...] = (
    (Attribute.CLASS, ObjectClass),
    (Attribute.KEY_TYPE, KeyKind),
    (Attribute.CERTIFICATE_TYPE, CertificateType),
    (Attribute.KEY_GEN_MECHANISM, Mechanism),
)
_BOOLEANS = (
    Attribute.ALWAYS_AUTHENTICATE, Attribute.ALWAYS_SENSITIVE, Attribute.COPYABLE, Attribute.DECAPSULATE,
    Attribute.DECRYPT, Attribute.DERIVE, Attribute.DESTROYABLE, Attribute.ENCAPSULATE, Attribute.ENCRYPT,
    Attribute.EXTRACTABLE, Attribute.LOCAL, Attribute.MODIFIABLE, Attribute.NEVER_EXTRACTABLE, Attribute.PRIVATE,
    Attribute.SENSITIVE, Attribute.SIGN, Attribute.SIGN_RECOVER, Attribute.TOKEN, Attribute.TRUSTED, Attribute.UNWRAP,
    Attribute.VERIFY, Attribute.VERIFY_RECOVER, Attribute.WRAP, Attribute.WRAP_WITH_TRUSTED,
)  # fmt: skip


class TolerantMapper(AttributeMapper):
    """python-pkcs11's mapper, except that unpacking never raises for a value that the token gives."""

    def __init__(self) -> None:
        super().__init__()
        for attribute in _TEXTS:
            self._unpack_with(attribute, printable)
        for attribute, enumeration in _ENUMERATIONS:
            self._unpack_with(attribute, _number_of(enumeration))
        for attribute in _BOOLEANS:
            self._unpack_with(attribute, any)

    def _unpack_with(self, attribute: Attribute, unpack: Callable[[bytes], Any]) -> None:
        pack, _ = self.attribute_types[attribute]
        self.register_handler(attribute, pack, unpack)


def printable(raw: bytes) -> str:
    """A text of a token as printable characters: UTF-8 as it is, other bytes and unprintable characters as escapes.

    Escapes are `\\x0a` for bytes and characters below 128 and `\\u202e` or `\\U000e0001` for others.
    """
    return "".join(map(_shown, raw.decode("utf-8", "surrogateescape")))


def read(key_object: Any, attribute: Attribute) -> Any:
    """The value of an attribute; None if the object does not have it or does not show it. Raises other PKCS11Errors."""
    try:
        return key_object[attribute]
    except (*UNREADABLE, KeyError):
        return None


def flag(key_object: Any, attribute: Attribute) -> bool | None:
    """The value of a boolean attribute; None if the object does not have it or does not show it."""
    value = read(key_object, attribute)
    return None if value is None else bool(value)


def _shown(character: str) -> str:
    number = ord(character)
    if character.isprintable():
        return character
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x1_0000 else f"\\U{number:08x}"


def _number_of(enumeration: type[IntEnum]) -> Callable[[bytes], int]:
    def unpack(value: bytes) -> int:
        number = int.from_bytes(value, "little")  # CK_ULONG of the machines that hsmd runs on
        try:
            return enumeration(number)
        except ValueError:
            return number

    return unpack
