"""The fields of audit records that hold a control request. The daemon writes them; audit readers and the command line use them.

A member that is set is a field `target_MEMBER`; of a hashed member there is the SHA-256 (hexadecimal), `target_MEMBER_sha256`.
The text of a list is that of its items, with commas between them; that of an object is its JSON in ASCII, with sorted members and
without spaces.
If the request is about a key, `target_digest` is the key's digest: names can be given to another key later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256

import msgspec
from msgspec import Struct

from hsmd.protocol.messages import OPERATIONS, Request, Subject

OPERATION = "op"
KEY_DIGEST = "target_digest"
"""Digest (hexadecimal) of the key that the request is about; no request may have a member `digest`."""


def fields_of(request: Request) -> dict[str, str]:
    """The fields that hold a request, its operation first. Members that are empty, zero or false are left out."""
    fields = {OPERATION: request.op()}
    for member, attribute in zip(request.__struct_encode_fields__, request.__struct_fields__, strict=True):
        value = getattr(request, attribute)
        if not value:
            continue
        text = _whole(value)
        if isinstance(value, bytes):
            fields[f"target_{member}_sha256"] = sha256(value).hexdigest()
        elif attribute in request.hashed:
            fields[f"target_{member}_sha256"] = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        else:
            fields[f"target_{member}"] = text
    return fields


def _whole(value: object) -> str:
    if isinstance(value, Struct):
        return json.dumps(msgspec.to_builtins(value), sort_keys=True, separators=(",", ":"))
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def key_named_by(request: Request) -> str:
    """The name of the key that a request is about; empty if it is about none."""
    return str(getattr(request, request.subject.key)) if request.subject.key else ""


def key_fields(digest: str) -> dict[str, str]:
    """The field that tells which key a request was about; none for an empty digest."""
    return {KEY_DIGEST: digest} if digest else {}


def subject_of(fields: Mapping[str, str | int]) -> Subject:
    """The names of the key and the client that a recorded request is about; empty for operations of other releases."""
    request = OPERATIONS.get(str(fields.get(OPERATION, "")))
    if request is None:
        return Subject()
    return Subject(key=_text(fields, request.subject.key), client=_text(fields, request.subject.client))


def _text(fields: Mapping[str, str | int], member: str) -> str:
    return str(fields.get(f"target_{member}", "")) if member else ""
