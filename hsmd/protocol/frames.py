"""Frames: length-prefixed messages of docs/protocol.md, section 1, and the layouts of their bodies, sections 2 to 5.

A decoded frame is the plain tuple `(kind, request id, body)`, because a busy daemon handles tens of thousands of them a second.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from hsmd.errors import MAX_ERROR_TEXT_BYTES, HsmdError, ProtocolError, from_wire

MAX_REQUEST_LENGTH = 65_536
"""Largest `length` a daemon or agent accepts: room for a TLS 1.2 client transcript with a long certificate chain."""
MAX_ANSWER_LENGTH = 1_048_576
"""Largest `length` a client accepts: control results such as audit pages are larger than requests."""
MAX_DEADLINE_MS = 60_000
MAX_DATA_BYTES = MAX_REQUEST_LENGTH - 9 - 39
KEY_DIGEST_BYTES = 32

HEADER = struct.Struct(">IBQ")
"""Length, which counts everything behind itself, kind, request id."""
ID_AND_KIND_BYTES = 9
HEADER_BYTES = HEADER.size

Frame = tuple[int, int, bytes]
"""(kind, request id, body)"""


class Kind(IntEnum):
    """Frame kinds; 0x80 and above may be skipped by a receiver that does not know them."""

    HELLO = 0x01
    WELCOME = 0x02
    PING = 0x03
    PONG = 0x04
    KEY_OPERATION = 0x10
    RESULT = 0x11
    ERROR = 0x12
    CANCEL = 0x13
    CONTROL_REQUEST = 0x20
    CONTROL_RESULT = 0x21
    DRAIN = 0x30
    EVENT = 0x81


def encode(kind: int, request_id: int, body: bytes = b"") -> bytes:
    """One frame as bytes. The caller keeps within the receiver's limit."""
    return HEADER.pack(len(body) + ID_AND_KIND_BYTES, kind, request_id) + body


# --- hello and welcome (section 2) ---

MAGIC = b"HSMD"
VERSION = 1


class Capability(IntEnum):
    """Capability bits of hello and welcome."""

    CONTROL = 1
    EVENTS = 2


class Hello(NamedTuple):
    """The client's first frame: the versions it speaks and what it can do."""

    version_min: int
    version_max: int
    capabilities: int


class Welcome(NamedTuple):
    """The server's first frame: the version chosen, common capabilities, and its limits."""

    version: int
    capabilities: int
    max_length: int
    max_open_requests: int


_HELLO = struct.Struct(">4sBBI")
_WELCOME = struct.Struct(">BIII")


def encode_hello(capabilities: int) -> bytes:
    """The hello frame of this release."""
    return encode(Kind.HELLO, 0, _HELLO.pack(MAGIC, VERSION, VERSION, capabilities))


def decode_hello(body: bytes) -> Hello:
    """Raises ProtocolError unless `body` is a well-formed hello."""
    if len(body) != _HELLO.size:
        raise ProtocolError(f"hello has {len(body)} bytes instead of {_HELLO.size}")
    magic, low, high, capabilities = _HELLO.unpack(body)
    if magic != MAGIC:
        raise ProtocolError("hello does not begin with HSMD")
    if low > high:
        raise ProtocolError("hello's lowest version is above its highest")
    return Hello(low, high, capabilities)


def encode_welcome(welcome: Welcome) -> bytes:
    """The welcome frame."""
    return encode(Kind.WELCOME, 0, _WELCOME.pack(*welcome))


def decode_welcome(body: bytes) -> Welcome:
    """Raises ProtocolError unless `body` is a well-formed welcome."""
    if len(body) != _WELCOME.size:
        raise ProtocolError(f"welcome has {len(body)} bytes instead of {_WELCOME.size}")
    return Welcome(*_WELCOME.unpack(body))


# --- key operation (section 3) ---

_DEADLINE = struct.Struct(">I")
_KEY_OPERATION = struct.Struct(">IBH32s")
_KEY_OPERATION_FRAME = struct.Struct(">IBQIBH32s")
_KEY_OPERATION_BYTES = _KEY_OPERATION.size


class KeyOperation(NamedTuple):
    """One use of one key; `key` is the SHA-256 of its DER SubjectPublicKeyInfo."""

    deadline_ms: int
    purpose: int
    scheme: int
    key: bytes
    data: bytes


def encode_key_operation(
    request_id: int, deadline_ms: int, purpose: int, scheme: int, key: bytes, data: bytes
) -> bytes:
    """The key operation frame."""
    length = ID_AND_KIND_BYTES + _KEY_OPERATION_BYTES + len(data)
    head = _KEY_OPERATION_FRAME.pack(
        length, Kind.KEY_OPERATION, request_id, deadline_ms, purpose, scheme, key
    )
    return head + data


def key_operation_body(deadline_ms: int, purpose: int, scheme: int, key: bytes, data: bytes) -> bytes:
    """The body of a key operation frame."""
    return _KEY_OPERATION.pack(deadline_ms, purpose, scheme, key) + data


def decode_key_operation(body: bytes) -> KeyOperation:
    """Raises ProtocolError if `body` is too short or the deadline outside 1 to 60,000 ms."""
    return KeyOperation(*decode_key_operation_head(body), body[_KEY_OPERATION_BYTES:])


def decode_key_operation_head(body: bytes) -> tuple[int, int, int, bytes]:
    """(deadline in ms, purpose, scheme, key) of a key operation that is passed on as it is. Raises as above."""
    if len(body) < _KEY_OPERATION_BYTES:
        raise ProtocolError(
            f"key operation has {len(body)} bytes, at least {_KEY_OPERATION_BYTES} are needed"
        )
    head: tuple[int, int, int, bytes] = _KEY_OPERATION.unpack_from(body)
    if not 1 <= head[0] <= MAX_DEADLINE_MS:
        raise _bad_deadline(head[0])
    return head


def with_deadline(body: bytes, deadline_ms: int) -> bytes:
    """The body of a key operation or control request with another deadline."""
    return _DEADLINE.pack(deadline_ms) + body[_DEADLINE.size :]


def _bad_deadline(deadline_ms: int) -> ProtocolError:
    return ProtocolError(f"deadline of {deadline_ms} ms is not between 1 and {MAX_DEADLINE_MS}")


# --- control requests (section 4) ---


def encode_control_request(request_id: int, deadline_ms: int, document: bytes) -> bytes:
    """A control request frame around a JSON document."""
    return encode(Kind.CONTROL_REQUEST, request_id, control_request_body(deadline_ms, document))


def control_request_body(deadline_ms: int, document: bytes) -> bytes:
    """The body of a control request frame."""
    return _DEADLINE.pack(deadline_ms) + document


def decode_control_request(body: bytes) -> tuple[int, bytes]:
    """(deadline in ms, JSON document). Raises ProtocolError for a short body or a deadline out of range."""
    if len(body) < _DEADLINE.size:
        raise ProtocolError("control request without a deadline")
    (deadline_ms,) = _DEADLINE.unpack_from(body)
    if not 1 <= deadline_ms <= MAX_DEADLINE_MS:
        raise _bad_deadline(deadline_ms)
    return deadline_ms, body[_DEADLINE.size :]


# --- drain ---


def encode_drain(grace_ms: int) -> bytes:
    """A drain notice."""
    return encode(Kind.DRAIN, 0, grace_ms.to_bytes(4, "big"))


def decode_drain(body: bytes) -> int:
    """Grace in milliseconds. Raises ProtocolError unless the body has four bytes."""
    if len(body) != 4:
        raise ProtocolError(f"drain has {len(body)} bytes instead of 4")
    return int.from_bytes(body, "big")


# --- error (section 5) ---

_ERROR = struct.Struct(">HI")


def encode_error(request_id: int, error: HsmdError) -> bytes:
    """The error frame for `error`."""
    return encode(Kind.ERROR, request_id, error_body(error))


def error_body(error: HsmdError) -> bytes:
    """The body of an error frame; a text that is too long is cut at a character's border."""
    text = error.text.encode("utf-8", "replace")[:MAX_ERROR_TEXT_BYTES].decode("utf-8", "ignore").encode()
    return _ERROR.pack(int(error.code), error.retry_after_ms) + text


def error_code(body: bytes) -> int:
    """The code in the body of an error frame, without decoding the rest of it."""
    return int.from_bytes(body[:2], "big")


def decode_error(body: bytes) -> HsmdError:
    """The error a peer sent. Raises ProtocolError if the body is malformed."""
    if not _ERROR.size <= len(body) <= _ERROR.size + MAX_ERROR_TEXT_BYTES:
        raise ProtocolError(
            f"error has {len(body)} bytes, {_ERROR.size} to {_ERROR.size + MAX_ERROR_TEXT_BYTES} are allowed"
        )
    code, retry_after_ms = _ERROR.unpack_from(body)
    try:
        text = body[_ERROR.size :].decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolError("the text of an error is not UTF-8") from None
    return from_wire(code, text, retry_after_ms)
