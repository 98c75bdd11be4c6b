"""Enrolment: the one-time token of a new client, and the question and answer that use it (docs/protocol.md, section 8).

A token is one line of text to copy: `hsmd-enroll:v1:` and base64url of

    flags (1 byte: 0 a host key is pinned, 1 a host CA) | id (8) | secret (16) | SHA-256 of the pinned key (32) |
    the daemon's address, ASCII | check (4 bytes: the first of the SHA-256 of everything before, prefix included)

The line is a secret: its holder can become the client for which it was made, once.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from hashlib import sha256

import msgspec
from msgspec import Struct

from hsmd.errors import BadRequest

USER = "enroll"
"""The SSH user name of peers that present a token; no client can have this name."""
SUBSYSTEM = "hsmd-enroll"
PREFIX = "hsmd-enroll:v1:"
ID_BYTES, SECRET_BYTES, PIN_BYTES, CHECK_BYTES = 8, 16, 32, 4
MAX_ADDRESS_BYTES = 280
MAX_DOCUMENT_BYTES = 16 * 1024
"""Longest question or answer: a line of JSON."""


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """`pin` is the SHA-256 of the SSH wire form of the daemon's host key, or of its host CA if `pins_ca`."""

    id: bytes
    secret: bytes = field(repr=False)
    pin: bytes
    pins_ca: bool
    address: str

    def text(self) -> str:
        """The line of text."""
        body = bytes([self.pins_ca]) + self.id + self.secret + self.pin + self.address.encode()
        return PREFIX + base64.urlsafe_b64encode(body + _check(body)).decode("ascii").rstrip("=")

    @property
    def password(self) -> str:
        """The SSH password that proves the token. It is sent only after the host key was compared with `pin`."""
        return f"{self.id.hex()}.{self.secret.hex()}"

    @classmethod
    def parse(cls, text: str) -> EnrolmentToken:
        """The token in a line of text. Raises BadRequest, whose text does not contain the line."""
        text = text.strip()
        if not text.startswith(PREFIX):
            raise BadRequest(
                f"this is not an enrolment token, which begins with {PREFIX}; copy the whole line"
            )
        body = _decoded(text.removeprefix(PREFIX))
        body, check = body[:-CHECK_BYTES], body[-CHECK_BYTES:]
        if check != _check(body):
            raise BadRequest("enrolment token: it is incomplete or was changed; copy the whole line")
        flags, rest = body[0], body[1:]
        secret_at, pin_at = ID_BYTES, ID_BYTES + SECRET_BYTES
        address = rest[pin_at + PIN_BYTES :]
        if flags not in (0, 1) or not address.isascii():
            raise BadRequest("enrolment token: it was made by a newer hsmd; use the same release here")
        return cls(
            rest[:secret_at],
            rest[secret_at:pin_at],
            rest[pin_at : pin_at + PIN_BYTES],
            bool(flags),
            address.decode(),
        )


def parse_password(text: str) -> tuple[str, bytes] | None:
    """(id in hex, SHA-256 of the secret) from the SSH password that a peer sends; None if it is not that of a token."""
    left, _, right = text.partition(".")
    if len(left) != 2 * ID_BYTES or len(right) != 2 * SECRET_BYTES:
        return None
    try:
        return bytes.fromhex(left).hex(), sha256(bytes.fromhex(right)).digest()
    except ValueError:
        return None


class EnrolmentQuestion(Struct, forbid_unknown_fields=True):
    """The only request that a token allows: register this public key (one OpenSSH line) for the client."""

    public_key: str


class EnrolmentAnswer(Struct):
    """The name and roles of the new client (`role` is the first of `roles`), and the keys to pin.

    `host_keys` are OpenSSH lines, that of a host CA behind `cert-authority `; `operator_keys` are the Ed25519 keys of operators.
    `statement_keys` are verifier key lines of the keys with which the daemons sign statements, empty until they have signed one.
    `error` says why nothing was done; it is empty otherwise.
    """

    client: str = ""
    role: str = ""
    host_keys: list[str] = []
    operator_keys: list[str] = []
    error: str = ""
    roles: list[str] = []
    statement_keys: list[str] = []


def encode(document: EnrolmentQuestion | EnrolmentAnswer) -> bytes:
    """A line of JSON."""
    return msgspec.json.encode(document) + b"\n"


def decode_question(line: bytes) -> EnrolmentQuestion:
    """Raises BadRequest."""
    try:
        return msgspec.json.decode(line, type=EnrolmentQuestion)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadRequest("enrolment: this is not an enrolment request") from None


def decode_answer(line: bytes) -> EnrolmentAnswer:
    """Raises BadRequest."""
    try:
        return msgspec.json.decode(line, type=EnrolmentAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadRequest("enrolment: the daemon's answer is malformed") from None


def _decoded(text: str) -> bytes:
    try:
        body = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("enrolment token: it is incomplete or was changed; copy the whole line") from None
    if not 0 <= len(body) - 1 - ID_BYTES - SECRET_BYTES - PIN_BYTES - CHECK_BYTES <= MAX_ADDRESS_BYTES:
        raise BadRequest("enrolment token: it is incomplete; copy the whole line")
    return body


def _check(body: bytes) -> bytes:
    return sha256(PREFIX.encode() + body).digest()[:CHECK_BYTES]
