"""Searching the token for private key objects: all of them, or those with one CKA_ID or CKA_LABEL."""

from __future__ import annotations

from typing import Any

from pkcs11 import (
    Attribute,
    AttributeSensitive,
    AttributeTypeInvalid,
    AttributeValueInvalid,
    FunctionFailed,
    GeneralError,
    ObjectClass,
    ObjectHandleInvalid,
    PKCS11Error,
)

from hsmd.pkcs11 import search
from hsmd.pkcs11.search import Prefetched, Slices
from hsmd.pkcs11.templates import Template

HALF_WRITTEN = (
    AttributeTypeInvalid,
    AttributeSensitive,
    AttributeValueInvalid,
    FunctionFailed,
    GeneralError,
    ObjectHandleInvalid,
)
"""Errors of reading an object that was written incompletely or has just been destroyed; such objects are ignored."""
_ALL: Template = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.TOKEN: True}
_NEEDED = (
    Attribute.ID,
    Attribute.KEY_TYPE,
    Attribute.EC_PARAMS,
    Attribute.MODULUS,
    Attribute.PUBLIC_EXPONENT,
    Attribute.SIGN,
    Attribute.DECRYPT,
    Attribute.ALWAYS_AUTHENTICATE,
)
"""What pairing and opening a key looks at: read in one call, because each call costs SoftHSM two opened files."""


def by_id(session: Any) -> dict[bytes, list[Any]]:
    """All private key objects of the token by CKA_ID.

    Incomplete ones are ignored. Raises PKCS11Error, also if none can be read, because then the token itself has failed.
    """
    return search.finish(reading_by_id(session))


def reading_by_id(session: Any) -> Slices[dict[bytes, list[Any]]]:
    """`by_id` in slices."""
    found = _ById()
    yield from search.in_slices(search.find(session, _ALL), found.add)
    if found.unclear is not None and not found.by_id:
        raise found.unclear
    return found.by_id


def with_id(session: Any, cka_id: bytes) -> list[Any]:
    """The private key objects with this CKA_ID. Raises PKCS11Error."""
    return list(search.find(session, {**_ALL, Attribute.ID: cka_id}))


def with_label(session: Any, label: str) -> list[Any]:
    """The private key objects with this CKA_LABEL. Raises PKCS11Error."""
    return list(search.find(session, {**_ALL, Attribute.LABEL: label}))


class _ById:
    """Private keys by CKA_ID, and the last error that may be the token's and not one object's."""

    def __init__(self) -> None:
        self.by_id: dict[bytes, list[Any]] = {}
        self.unclear: GeneralError | FunctionFailed | None = None

    def add(self, private: Any) -> None:
        try:
            private = _prefetched(private)
            self.by_id.setdefault(private[Attribute.ID], []).append(private)
        except (GeneralError, FunctionFailed) as error:
            self.unclear = error
        except HALF_WRITTEN:
            pass


def _prefetched(private: Any) -> Any:
    """The object with the attributes that are needed of it; as it is if the token does not give several at a time."""
    try:
        return Prefetched(private, _NEEDED)
    except PKCS11Error:
        return private
