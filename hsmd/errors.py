"""Every error of hsmd: one tree, one stable code each, and who is to blame.

The text of an error is safe to send to the peer. What only an operator may know goes into `detail`, which is logged
and never sent. Errors that would tell an attacker something (unknown key, missing grant, wrong role) are one class
with one text, so that no caller can make them differ by accident.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import ClassVar

MAX_ERROR_TEXT_BYTES = 512
"""Longest text an error frame carries (docs/protocol.md, section 5)."""


class ErrorCode(IntEnum):
    """Numbers of docs/protocol.md, section 5; never reused."""

    PROTOCOL = 1
    VERSION = 2
    REFUSED = 10
    PURPOSE = 11
    NOT_FOUND = 12
    BAD_REQUEST = 13
    CONFLICT = 14
    UNAVAILABLE = 20
    OVERLOADED = 21
    DEADLINE = 22
    DRAINING = 23
    TOKEN = 30
    AUDIT = 31
    STORE = 32
    INTERNAL = 40


class Blame(Enum):
    """Who has to mend it."""

    PEER = "peer"
    CALLER = "caller"
    POLICY = "policy"
    CAPACITY = "capacity"
    TOKEN = "token"
    STORE = "store"
    US = "us"


class HsmdError(Exception):
    """Root of the tree.

    `text` is meant for the peer; `detail` for the log; `retry_after_ms` is a hint for the caller, 0 for none.
    """

    code: int = ErrorCode.INTERNAL
    blame: ClassVar[Blame] = Blame.US
    retryable: ClassVar[bool] = False
    default_text: ClassVar[str] = "internal fault; see the daemon's log"

    def __init__(self, text: str | None = None, *, detail: str = "", retry_after_ms: int = 0) -> None:
        self.text = self.default_text if text is None else text
        self.detail = detail
        self.retry_after_ms = retry_after_ms
        super().__init__(self.text)


class ProtocolError(HsmdError):
    """The peer broke a rule of the wire format."""

    code = ErrorCode.PROTOCOL
    blame = Blame.PEER
    default_text = "the peer broke the protocol"


class VersionMismatch(HsmdError):
    """The two sides have no protocol version in common."""

    code = ErrorCode.VERSION
    blame = Blame.PEER
    default_text = "no common protocol version"


class Refused(HsmdError):
    """Unknown key, no grant or not the right role; deliberately the same for all."""

    code = ErrorCode.REFUSED
    blame = Blame.POLICY
    default_text = "refused"

    def __init__(self, *, detail: str = "") -> None:
        super().__init__(detail=detail)


class RefusedHere(Refused):
    """The agent's refusal, which says why: who may ask it may read the log of the TLS server that asked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.args = (text,)


class PurposeMismatch(HsmdError):
    """The bytes are not what the purpose allows, or the signature scheme does not suit."""

    code = ErrorCode.PURPOSE
    blame = Blame.CALLER
    default_text = "the data is not what the purpose allows"


class NotFound(HsmdError):
    """A control request names something that does not exist."""

    code = ErrorCode.NOT_FOUND
    blame = Blame.CALLER
    default_text = "no such object"


class BadRequest(HsmdError):
    """A control request is wrong; the text names the member and the fix."""

    code = ErrorCode.BAD_REQUEST
    blame = Blame.CALLER
    default_text = "bad request"


class Conflict(HsmdError):
    """A control request would make something that exists, or break something in use."""

    code = ErrorCode.CONFLICT
    blame = Blame.CALLER
    default_text = "it exists already or is in use"


class Unavailable(HsmdError):
    """Nobody can do this right now."""

    code = ErrorCode.UNAVAILABLE
    blame = Blame.CAPACITY
    retryable = True
    default_text = "unavailable right now"


class Overloaded(HsmdError):
    """Too many requests; `retry_after_ms` says when to come back."""

    code = ErrorCode.OVERLOADED
    blame = Blame.CAPACITY
    retryable = True
    default_text = "too many requests"

    @classmethod
    def retry_in(cls, seconds: float) -> Overloaded:
        """The error with its hint rounded to milliseconds, at least one and at most a minute."""
        return cls(retry_after_ms=max(1, min(60_000, round(seconds * 1000))))


class DeadlineExceeded(HsmdError):
    """The caller's deadline passed before there was an answer."""

    code = ErrorCode.DEADLINE
    blame = Blame.CAPACITY
    default_text = "the deadline passed first"


class Draining(HsmdError):
    """This server answers what is open and takes nothing new."""

    code = ErrorCode.DRAINING
    blame = Blame.CAPACITY
    retryable = True
    default_text = "this server is going away"


class TokenFailure(HsmdError):
    """The token failed, or a signature it made did not verify."""

    code = ErrorCode.TOKEN
    blame = Blame.TOKEN
    default_text = "the token failed"


class AuditFailure(HsmdError):
    """The audit log cannot be written, so nothing may happen."""

    code = ErrorCode.AUDIT
    blame = Blame.US
    retryable = True
    default_text = "the audit log cannot be written"


class StoreFailure(HsmdError):
    """The store cannot be reached or is damaged."""

    code = ErrorCode.STORE
    blame = Blame.STORE
    retryable = True
    default_text = "the store cannot be reached"


class ProofInvalid(HsmdError):
    """A signature or a proof about an audit log is wrong: it is not the log that it was, or not the one it claims to be."""

    code = ErrorCode.PROTOCOL
    blame = Blame.PEER
    default_text = "the proof about the audit log is wrong"


class InternalFault(HsmdError):
    """A bug of ours."""


class PeerError(HsmdError):
    """An error with a code this release does not know; it stays printable and comparable."""

    blame = Blame.PEER

    def __init__(self, code: int, text: str, *, retry_after_ms: int = 0) -> None:
        super().__init__(text, retry_after_ms=retry_after_ms)
        self.code = code


class ConfigurationError(HsmdError):
    """A configuration file is wrong; `faults` lists everything that is, not just the first."""

    code = ErrorCode.BAD_REQUEST
    blame = Blame.CALLER

    def __init__(self, source: str, faults: list[str]) -> None:
        self.source = source
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{source}: {fault}" for fault in faults))


_BY_CODE: dict[int, type[HsmdError]] = {
    int(cls.code): cls
    for cls in (
        ProtocolError, VersionMismatch, PurposeMismatch, NotFound, BadRequest, Conflict, Unavailable, Overloaded,
        DeadlineExceeded, Draining, TokenFailure, AuditFailure, StoreFailure, InternalFault,
    )
}  # fmt: skip


def from_wire(code: int, text: str, retry_after_ms: int = 0) -> HsmdError:
    """The error that a peer's `error` frame stands for; unknown codes become a `PeerError`."""
    if code == ErrorCode.REFUSED:
        return Refused()
    cls = _BY_CODE.get(code)
    if cls is None:
        return PeerError(code, text, retry_after_ms=retry_after_ms)
    return cls(text, retry_after_ms=retry_after_ms)
