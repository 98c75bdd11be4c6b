"""Ceilings: the data objects in the token that fix what a key may be used for (docs/adr/0001).

Each key that hsmd serves has one CKO_DATA object: application `hsmd`, label = key digest in hex, value = JSON with version, key
digest, CKA_ID, purposes and public key. The object is private, so that creating one requires the PIN, and not modifiable. It
contains the public key because an EC private key object does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pkcs11
from pkcs11 import Attribute, ObjectClass

from hsmd.errors import BadRequest
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.templates import checked
from hsmd.purposes import Purpose, check_ceiling, expand, labels

APPLICATION = "hsmd"
VERSION = 1
MAX_VALUE_BYTES = 16_384
_FIND = {Attribute.CLASS: ObjectClass.DATA, Attribute.APPLICATION: APPLICATION}


class _Value(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON document in the data object."""

    version: int
    key: str
    cka_id: str
    purposes: list[str]
    public_key: bytes


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The content of one data object; `value` is its JSON document, to detect changes."""

    half: PublicHalf
    cka_id: bytes
    purposes: frozenset[Purpose]
    value: bytes


def write(session: Any, half: PublicHalf, cka_id: bytes, purposes: frozenset[Purpose]) -> Ceiling:
    """Create the ceiling of a key. Raises BadRequest if no key may have it, PKCS11Error if the token fails."""
    check_ceiling(half.key_type, purposes)
    value = msgspec.json.encode(_Value(VERSION, half.digest.hex(), cka_id.hex(), labels(purposes), half.spki))
    template = {
        Attribute.CLASS: ObjectClass.DATA,
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.MODIFIABLE: False,
        Attribute.COPYABLE: False,
        Attribute.APPLICATION: APPLICATION,
        Attribute.LABEL: half.digest.hex(),
        Attribute.VALUE: value,
    }
    session.create_object(checked(template))
    return Ceiling(half, cka_id, purposes, value)


def read_all(session: Any) -> dict[bytes, Ceiling]:
    """All valid ceilings by key digest.

    Objects that are not valid ceilings are ignored, and so are keys with two different ceilings: such keys are not served.
    """
    found: dict[bytes, Ceiling] = {}
    contradicted: set[bytes] = set()
    for data_object in list(session.get_objects(_FIND)):
        ceiling = _read(data_object)
        if ceiling is None:
            continue
        known = found.setdefault(ceiling.half.digest, ceiling)
        if (known.cka_id, known.purposes) != (ceiling.cka_id, ceiling.purposes):
            contradicted.add(ceiling.half.digest)
    return {digest: ceiling for digest, ceiling in found.items() if digest not in contradicted}


def objects_of(session: Any, digest: bytes) -> Iterator[Any]:
    """The data objects with the label of this key, valid or not."""
    yield from list(session.get_objects(checked({**_FIND, Attribute.LABEL: digest.hex()})))


def _read(data_object: Any) -> Ceiling | None:
    try:
        value: bytes = data_object[Attribute.VALUE]
        private = data_object[Attribute.PRIVATE]
    except (
        pkcs11.AttributeTypeInvalid,
        pkcs11.AttributeSensitive,
        pkcs11.FunctionFailed,
        pkcs11.ObjectHandleInvalid,
    ):
        return None
    if not private or len(value) > MAX_VALUE_BYTES:
        return None
    return parse(value)


def parse(value: bytes) -> Ceiling | None:
    """The ceiling in a JSON document, or None if it is not one that a key may have."""
    try:
        document = msgspec.json.decode(value, type=_Value)
        cka_id = bytes.fromhex(document.cka_id)
        purposes = expand(document.purposes)
    except (msgspec.MsgspecError, RecursionError, ValueError, BadRequest):
        return None
    half = PublicHalf.from_spki(document.public_key)
    if document.version != VERSION or half is None or half.digest.hex() != document.key:
        return None
    try:
        check_ceiling(half.key_type, purposes)
    except BadRequest:
        return None
    return Ceiling(half, cka_id, purposes, value)
