"""Ceilings: the data objects in the token that fix what a key may be used for (docs/adr/0001).

Each key that hsmd serves has one CKO_DATA object: application `hsmd`, label = key digest in hex, value = JSON with version, key
digest, CKA_ID, purposes and public key. The object is private, so that creating one requires the PIN, and not modifiable. It
contains the public key because an EC private key object does not. Version 2 is written only for what version 1 cannot hold: keys
that unwrap, and constraints of purposes. Releases that know version 1 alone do not serve keys with a ceiling of version 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pkcs11
from pkcs11 import Attribute, ObjectClass

from hsmd.errors import BadRequest
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.templates import checked
from hsmd.purposes import Purpose, check_ceiling, expand, is_unwrapping, labels
from hsmd.purposes.ceiling_constraints import ConstraintDocuments, check_constraints, constraints_by_label

APPLICATION = "hsmd"
MAX_VALUE_BYTES = 16_384
_FIND = {Attribute.CLASS: ObjectClass.DATA, Attribute.APPLICATION: APPLICATION}
_NONE: ConstraintDocuments = {}


class _Value(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON document in the data object, version 1."""

    version: int
    key: str
    cka_id: str
    purposes: list[str]
    public_key: bytes


class _Value2(_Value, forbid_unknown_fields=True, omit_defaults=True):
    """Version 2: with the constraints of purposes, by label. Its encoding is canonical: see `parse`."""

    constraints: dict[str, dict[str, Any]] = {}


class _Version(msgspec.Struct):
    """The member that tells how to read the others."""

    version: int


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The content of one data object; `value` is its JSON document, to detect changes."""

    half: PublicHalf
    cka_id: bytes
    purposes: frozenset[Purpose]
    value: bytes
    constraints: ConstraintDocuments = field(default_factory=dict)
    """What restricts a purpose further, as JSON; purposes without an entry are not restricted."""

    def contradicts(self, other: Ceiling) -> bool:
        """Whether two ceilings of one key differ in what they permit."""
        return (self.cka_id, self.purposes, self.constraints) != (
            other.cka_id,
            other.purposes,
            other.constraints,
        )


def write(
    session: Any,
    half: PublicHalf,
    cka_id: bytes,
    purposes: frozenset[Purpose],
    constraints: ConstraintDocuments = _NONE,
) -> Ceiling:
    """Create the ceiling of a key. Raises BadRequest if no key may have it, PKCS11Error if the token fails."""
    check_ceiling(half.key_type, purposes)
    check_constraints(purposes, constraints)
    value = encode(half, cka_id, purposes, constraints)
    if len(value) > MAX_VALUE_BYTES:
        raise BadRequest(f"constraints: a ceiling has at most {MAX_VALUE_BYTES} bytes, this one {len(value)}")
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
    return Ceiling(half, cka_id, purposes, value, constraints)


def encode(
    half: PublicHalf, cka_id: bytes, purposes: frozenset[Purpose], constraints: ConstraintDocuments = _NONE
) -> bytes:
    """The JSON document of a ceiling, in the lowest version that holds it."""
    members = (half.digest.hex(), cka_id.hex(), labels(purposes), half.spki)
    if not _needs_version_2(purposes, constraints):
        return msgspec.json.encode(_Value(1, *members))
    by_label = {purpose.label: dict(document) for purpose, document in constraints.items()}
    return msgspec.json.encode(_Value2(2, *members, by_label), order="deterministic")


def _needs_version_2(purposes: frozenset[Purpose], constraints: ConstraintDocuments) -> bool:
    return bool(constraints) or any(is_unwrapping(purpose) for purpose in purposes)


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
        if ceiling.contradicts(found.setdefault(ceiling.half.digest, ceiling)):
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
    """The ceiling in a JSON document, or None if it is not one that a key may have.

    A document of version 2 must be exactly what `encode` writes, so that one ceiling has one form and a member that is named
    twice, or a version 2 that says no more than version 1, is no ceiling.
    """
    try:
        version = msgspec.json.decode(value, type=_Version).version
        document = msgspec.json.decode(value, type=_Value if version == 1 else _Value2)
        cka_id = bytes.fromhex(document.cka_id)
        purposes = expand(document.purposes)
        constraints = constraints_by_label(purposes, getattr(document, "constraints", {}))
    except (msgspec.MsgspecError, RecursionError, ValueError, BadRequest):
        return None
    half = PublicHalf.from_spki(document.public_key)
    if half is None or half.digest.hex() != document.key:
        return None
    try:
        check_ceiling(half.key_type, purposes)
    except BadRequest:
        return None
    if version == 1 and _needs_version_2(purposes, constraints):
        return None
    if version != 1 and encode(half, cka_id, purposes, constraints) != value:
        return None
    return Ceiling(half, cka_id, purposes, value, constraints)
