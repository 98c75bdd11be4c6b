"""Enrolment: the one-time token that an operator hands over, and what is said with it (docs/protocol.md, section 8).

A token is one line of text to copy: `hsmd-enroll:v1:` and base64url of

    flags (1 byte: 0 a host key is pinned, 1 a host CA) | id (8) | secret (16) | SHA-256 of the pinned key (32) |
    the daemon's address, UTF-8 | check (4 bytes: begin of the SHA-256 of everything before, prefix included)

Who has the line can become the client it was made for, once; it is a secret.
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
"""The SSH user name that stands for nobody but the holder of a token; no client can be called so."""
SUBSYSTEM = "hsmd-enroll"
PREFIX = "hsmd-enroll:v1:"
ID_BYTES, SECRET_BYTES, PIN_BYTES, CHECK_BYTES = 8, 16, 32, 4
MAX_ADDRESS_BYTES = 280
MAX_DOCUMENT_BYTES = 16 * 1024
"""One question or answer: a line of JSON."""


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """`pin` is the SHA-256 of the SSH wire form of the daemon's host key, or of its host CA if `pins_ca`."""

    id: bytes
    secret: bytes = field(repr=False)
    pin: bytes
    pins_ca: bool
    address: str

    def text(self) -> str:
        """The line to copy."""
        body = bytes([self.pins_ca]) + self.id + self.secret + self.pin + self.address.encode()
        return PREFIX + base64.urlsafe_b64encode(body + _check(body)).decode("ascii").rstrip("=")

    @property
    def password(self) -> str:
        """What proves the token to the daemon, whose host key was compared with `pin` before."""
        return f"{self.id.hex()}.{self.secret.hex()}"

    @classmethod
    def parse(cls, text: str) -> EnrolmentToken:
        """Raises BadRequest, which does not repeat the text."""
        text = text.strip()
        if not text.startswith(PREFIX):
            raise BadRequest(f"enrolment token: begins with {PREFIX}; copy the whole line")
        body = _decoded(text.removeprefix(PREFIX))
        body, check = body[:-CHECK_BYTES], body[-CHECK_BYTES:]
        if check != _check(body):
            raise BadRequest("enrolment token: something is missing or mistyped; copy the whole line")
        flags, rest = body[0], body[1:]
        secret_at, pin_at = ID_BYTES, ID_BYTES + SECRET_BYTES
        address = rest[pin_at + PIN_BYTES :]
        if flags not in (0, 1) or not address.isascii():
            raise BadRequest("enrolment token: made by a newer hsmd; use the same release here")
        return cls(
            rest[:secret_at],
            rest[secret_at:pin_at],
            rest[pin_at : pin_at + PIN_BYTES],
            bool(flags),
            address.decode(),
        )


def parse_password(text: str) -> tuple[str, bytes] | None:
    """(id in hex, SHA-256 of the secret) of what somebody sends as a token's proof; None if it is not one."""
    left, _, right = text.partition(".")
    if len(left) != 2 * ID_BYTES or len(right) != 2 * SECRET_BYTES:
        return None
    try:
        return bytes.fromhex(left).hex(), sha256(bytes.fromhex(right)).digest()
    except ValueError:
        return None


class EnrolmentQuestion(Struct, forbid_unknown_fields=True):
    """The only thing that a token's holder can ask: let me come with this key (one OpenSSH public key line)."""

    public_key: str


class EnrolmentAnswer(Struct):
    """Who we are now, and what to pin. `host_keys` are OpenSSH lines, `cert-authority ` in front of a host CA;
    `operator_keys` are the operators' Ed25519 keys. If `error` is there nothing was done, and this is why."""

    client: str = ""
    role: str = ""
    host_keys: list[str] = []
    operator_keys: list[str] = []
    error: str = ""


def encode(document: EnrolmentQuestion | EnrolmentAnswer) -> bytes:
    """A line of JSON."""
    return msgspec.json.encode(document) + b"\n"


def decode_question(line: bytes) -> EnrolmentQuestion:
    """Raises BadRequest."""
    try:
        return msgspec.json.decode(line, type=EnrolmentQuestion)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadRequest("enrolment: not a question") from None


def decode_answer(line: bytes) -> EnrolmentAnswer:
    """Raises BadRequest."""
    try:
        return msgspec.json.decode(line, type=EnrolmentAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadRequest("enrolment: the daemon's answer cannot be read") from None


def _decoded(text: str) -> bytes:
    try:
        body = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("enrolment token: something is missing or mistyped; copy the whole line") from None
    if not 0 <= len(body) - 1 - ID_BYTES - SECRET_BYTES - PIN_BYTES - CHECK_BYTES <= MAX_ADDRESS_BYTES:
        raise BadRequest("enrolment token: it is not complete; copy the whole line")
    return body


def _check(body: bytes) -> bytes:
    return sha256(PREFIX.encode() + body).digest()[:CHECK_BYTES]
