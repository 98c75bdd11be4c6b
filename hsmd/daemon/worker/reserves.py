"""Marks in the token for reserves: keys that are kept to replace an authority's, and the most they may ever be adopted for.

A reserve has no ceiling until it is adopted, and who adopts it gives the ceiling: a front that is taken over, too. Therefore it
gets, when it is made, one CKO_DATA object: application `hsmd-reserve`, label = key digest in hex, value = JSON with version, key
digest, CKA_ID, public key, and the constraints of the authority that it is to replace. The object is private, so that creating
one requires the PIN, and not modifiable. It stays as long as the private key does (docs/adr/0030).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pkcs11
from pkcs11 import Attribute, ObjectClass

from hsmd.daemon.worker import ceilings
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.errors import BadRequest, Conflict
from hsmd.pkcs11 import search
from hsmd.pkcs11.attributes import UNREADABLE, read
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.templates import checked
from hsmd.purposes import AuthorityConstraints, Purpose
from hsmd.purposes.ceiling_constraints import ConstraintDocuments, authority_constraints

APPLICATION = "hsmd-reserve"
MAX_VALUE_BYTES = ceilings.MAX_VALUE_BYTES
PURPOSES = frozenset({Purpose.X509_AUTHORITY})
_VERSION = 1
_FIND = {Attribute.CLASS: ObjectClass.DATA, Attribute.APPLICATION: APPLICATION}


class _Value(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON document in the data object."""

    version: int
    key: str
    cka_id: str
    public_key: bytes
    constraints: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Reserve:
    """The content of one data object. `limits` are the constraints that those of its ceiling have to be within."""

    half: PublicHalf
    cka_id: bytes
    limits: AuthorityConstraints

    @property
    def as_ceiling(self) -> Ceiling:
        """What finds the private key in the token; it permits nothing."""
        return Ceiling(self.half, self.cka_id, PURPOSES, b"")


def limits_of(purposes: frozenset[Purpose], constraints: ConstraintDocuments) -> AuthorityConstraints:
    """The limits of a new reserve. Raises BadRequest unless it is one for an authority, and says what it may be at most."""
    limits = authority_constraints(constraints)
    if purposes != PURPOSES or limits is None:
        raise BadRequest(
            "constraints: a reserve is made for x509-authority, with the constraints of that authority"
        )
    if limits.next_key or limits.next_elsewhere:
        raise BadRequest("constraints: a reserve commits to no next key before it is adopted")
    return limits


def write(session: Any, half: PublicHalf, cka_id: bytes, limits: AuthorityConstraints) -> Reserve:
    """Mark a key that was just made. Raises PKCS11Error."""
    document = _Value(
        _VERSION, half.digest.hex(), cka_id.hex(), half.spki, msgspec.Raw(limits.to_json().encode())
    )
    template = {
        Attribute.CLASS: ObjectClass.DATA,
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.MODIFIABLE: False,
        Attribute.COPYABLE: False,
        Attribute.APPLICATION: APPLICATION,
        Attribute.LABEL: half.digest.hex(),
        Attribute.VALUE: msgspec.json.encode(document),
    }
    session.create_object(checked(template))
    return Reserve(half, cka_id, limits)


def read_all(session: Any) -> dict[bytes, Reserve]:
    """All reserves that are marked, by key digest: one search, and there are few of them. Raises PKCS11Error."""
    return {found.half.digest: found for _, found in _objects(session) if found is not None}


def of_key(session: Any, digest: bytes) -> Reserve | None:
    """The mark of one key, None if it is no reserve.

    Found by its content: some tokens change labels. Raises Conflict if a mark that may be this key's cannot be read, such as
    that of a later release; PKCS11Error.
    """
    reserve = None
    for data_object, found in _objects(session):
        if found is None and _label(data_object) in (None, digest.hex()):
            raise Conflict(
                "the token keeps this key for a purpose that this release does not know; adopt it with a later one"
            )
        if found is not None and found.half.digest == digest:
            reserve = found
    return reserve


def remove(session: Any, digest: bytes) -> bool:
    """Remove the marks of a key whose private half has been destroyed; returns whether there were any. Raises PKCS11Error."""
    removed = False
    for data_object, found in _objects(session):
        if found is not None and found.half.digest == digest:
            data_object.destroy()
            removed = True
    return removed


def check_adoption(
    session: Any, reserve: Reserve, purposes: frozenset[Purpose], constraints: ConstraintDocuments
) -> None:
    """Refuse a ceiling that goes beyond the limits of a reserve. Raises BadRequest, PKCS11Error."""
    wanted = authority_constraints(constraints)
    if purposes != PURPOSES or wanted is None:
        raise BadRequest(
            "purposes: the key is reserved to replace the key of an authority, and is nothing else; adopt it with "
            f"hsmd ca init NAME --adopt {reserve.half.digest.hex()}"
        )
    if not wanted.within(reserve.limits):
        raise BadRequest(
            "constraints: they permit more than those of the authority that the key is reserved to replace"
        )
    if not wanted.next_key:
        return
    following = most_permitted(session, bytes.fromhex(wanted.next_key))
    if wanted.next_elsewhere or following is None or not following.within(reserve.limits):
        raise BadRequest(
            "constraints: the key that follows a reserve has to be one itself, in the same token, for no more than it"
        )


def most_permitted(session: Any, digest: bytes) -> AuthorityConstraints | None:
    """What a key of the token certifies, or may ever be adopted for: by its ceiling, or its mark; None if that is not known.

    Raises PKCS11Error.
    """
    ceiling = ceilings.of_key(session, digest)
    if ceiling is not None:
        return authority_constraints(ceiling.constraints)
    reserve = read_all(session).get(digest)
    return None if reserve is None else reserve.limits


def _objects(session: Any) -> Iterator[tuple[Any, Reserve | None]]:
    """Each object of this application, with what it says; None if that cannot be read."""
    for data_object in list(search.find(session, _FIND)):
        try:
            attributes = data_object.get_attributes((Attribute.VALUE, Attribute.PRIVATE))
        except pkcs11.ObjectHandleInvalid:
            continue  # destroyed meanwhile
        except UNREADABLE:
            yield data_object, None
            continue
        value = attributes.get(Attribute.VALUE) or b""
        yield data_object, parse(value) if attributes.get(Attribute.PRIVATE) else None


def parse(value: bytes) -> Reserve | None:
    """The reserve in a JSON document, or None if it is none."""
    if len(value) > MAX_VALUE_BYTES:
        return None
    try:
        document = msgspec.json.decode(value, type=_Value)
        cka_id = bytes.fromhex(document.cka_id)
        limits = AuthorityConstraints.parse(bytes(document.constraints).decode())
    except (msgspec.MsgspecError, RecursionError, ValueError, BadRequest):
        return None
    half = PublicHalf.from_spki(document.public_key)
    if document.version != _VERSION or half is None or half.digest.hex() != document.key:
        return None
    return Reserve(half, cka_id, limits)


def _label(data_object: Any) -> str | None:
    try:
        label = read(data_object, Attribute.LABEL)
    except pkcs11.PKCS11Error:
        return None
    return None if label is None else str(label)
