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
from hsmd.pkcs11 import search
from hsmd.pkcs11.attributes import UNREADABLE, read
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.search import Slices
from hsmd.pkcs11.templates import checked
from hsmd.purposes import Purpose, check_ceiling, expand, is_unwrapping, labels
from hsmd.purposes.ceiling_constraints import (
    NO_CONSTRAINTS,
    ConstraintDocuments,
    check_constraints,
    constraints_by_label,
)

APPLICATION = "hsmd"
MAX_VALUE_BYTES = 16_384
_CLASS = {Attribute.CLASS: ObjectClass.DATA}
_FIND = {**_CLASS, Attribute.APPLICATION: APPLICATION}


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
    constraints: ConstraintDocuments = NO_CONSTRAINTS,
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
    half: PublicHalf,
    cka_id: bytes,
    purposes: frozenset[Purpose],
    constraints: ConstraintDocuments = NO_CONSTRAINTS,
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
    """All valid ceilings by key digest. Raises PKCS11Error.

    Objects that are not valid ceilings are ignored, and so are keys with two different ceilings: such keys are not served.
    """
    return search.finish(reading_all(session))


def reading_all(session: Any) -> Slices[dict[bytes, Ceiling]]:
    """`read_all` in slices."""
    found = _Found()
    yield from search.in_slices(search.find(session, _FIND), found.add)
    return found.agreeing()


def of_key(session: Any, digest: bytes) -> Ceiling | None:
    """The ceiling of one key, as `read_all` would find it. Raises PKCS11Error.

    It is found by its label, in one search. Some tokens change labels: if there is none with this label, and one of those
    that there are has another label than it was given, all are read.
    """
    found = _Found()
    for data_object in objects_of(session, digest):
        found.add(data_object)
    if not found.by_digest:
        found.add_all_if_labels_differ(session)
    return found.agreeing().get(digest)


def objects_of(session: Any, digest: bytes) -> Iterator[Any]:
    """The data objects with the label of this key, valid or not."""
    yield from list(search.find(session, {**_CLASS, Attribute.LABEL: digest.hex(), **_FIND}))


class _Found:
    """The ceilings that some data objects hold."""

    def __init__(self) -> None:
        self.by_digest: dict[bytes, Ceiling] = {}
        self._contradicted: set[bytes] = set()

    def add(self, data_object: Any) -> None:
        ceiling = _read(data_object)
        if ceiling is None:
            return
        if ceiling.contradicts(self.by_digest.setdefault(ceiling.half.digest, ceiling)):
            self._contradicted.add(ceiling.half.digest)

    def agreeing(self) -> dict[bytes, Ceiling]:
        """Those of keys that have no two different ones."""
        return {
            digest: ceiling for digest, ceiling in self.by_digest.items() if digest not in self._contradicted
        }

    def add_all_if_labels_differ(self, session: Any) -> None:
        for data_object in (objects := search.find(session, _FIND)):
            ceiling = _read(data_object)
            if ceiling is None:
                continue
            if read(data_object, Attribute.LABEL) == ceiling.half.digest.hex():
                return
            self.add(data_object)
            for other in objects:
                self.add(other)


def _read(data_object: Any) -> Ceiling | None:
    try:
        attributes = data_object.get_attributes((Attribute.VALUE, Attribute.PRIVATE))
    except (*UNREADABLE, pkcs11.ObjectHandleInvalid):
        return None
    value: bytes | None = attributes.get(Attribute.VALUE)
    if value is None or not attributes.get(Attribute.PRIVATE) or len(value) > MAX_VALUE_BYTES:
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
