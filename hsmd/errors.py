"""Every error of hsmd: one class hierarchy, each class with a stable code.

The text of an error is safe to send to the peer. Information for operators only goes into `detail`, which is logged and
never sent. Errors that would inform an attacker (unknown key, missing grant, wrong role) are one class with one text, so
that they cannot differ by accident.
"""

from __future__ import annotations

from enum import IntEnum
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


class HsmdError(Exception):
    """Base of all errors.

    `text` is for the peer, `detail` for the log; `retry_after_ms` is a hint for the caller, 0 for none.
    """

    code: int = ErrorCode.INTERNAL
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
    default_text = "the peer broke the protocol"


class VersionMismatch(HsmdError):
    """The two sides have no protocol version in common."""

    code = ErrorCode.VERSION
    default_text = "no common protocol version"


class Refused(HsmdError):
    """Unknown key, no grant or wrong role; deliberately the same for all."""

    code = ErrorCode.REFUSED
    default_text = "refused"

    def __init__(self, *, detail: str = "") -> None:
        super().__init__(detail=detail)


class RefusedHere(Refused):
    """The agent's refusal, which gives the reason: a process that may use the agent may know it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.args = (text,)


class PurposeMismatch(HsmdError):
    """The bytes are not what the purpose allows, or the signature scheme does not fit the key or the purpose."""

    code = ErrorCode.PURPOSE
    default_text = "the data is not what the purpose allows"


class NotFound(HsmdError):
    """A control request names something that does not exist."""

    code = ErrorCode.NOT_FOUND
    default_text = "no such object"


class BadRequest(HsmdError):
    """A control request is invalid; the text names the member and the fix."""

    code = ErrorCode.BAD_REQUEST
    default_text = "bad request"


class Conflict(HsmdError):
    """A control request would create something that exists, or remove something that is in use."""

    code = ErrorCode.CONFLICT
    default_text = "it exists already or is in use"


class LeaseLost(Conflict):
    """A write by a holder whose lease was released, or taken by another holder since."""

    default_text = "another holder has taken over in the meantime; nothing was changed"


class Unavailable(HsmdError):
    """No worker or daemon can do this right now."""

    code = ErrorCode.UNAVAILABLE
    retryable = True
    default_text = "unavailable right now"


class Overloaded(HsmdError):
    """Too many requests; `retry_after_ms` says when to try again."""

    code = ErrorCode.OVERLOADED
    retryable = True
    default_text = "too many requests"

    @classmethod
    def retry_in(cls, seconds: float) -> Overloaded:
        """The error with its hint rounded to milliseconds, at least one and at most a minute."""
        return cls(retry_after_ms=max(1, min(60_000, round(seconds * 1000))))


class DeadlineExceeded(HsmdError):
    """The caller's deadline passed before there was an answer."""

    code = ErrorCode.DEADLINE
    default_text = "the deadline passed first"


class Draining(HsmdError):
    """This server answers open requests and accepts no new ones before it exits."""

    code = ErrorCode.DRAINING
    retryable = True
    default_text = "this server is going away"


class TokenFailure(HsmdError):
    """The token failed, or a signature it made did not verify."""

    code = ErrorCode.TOKEN
    default_text = "the token failed"


class AuditFailure(HsmdError):
    """The audit log cannot be written, so no operation is performed."""

    code = ErrorCode.AUDIT
    retryable = True
    default_text = "the audit log cannot be written"


class StoreFailure(HsmdError):
    """The store cannot be reached or is damaged."""

    code = ErrorCode.STORE
    retryable = True
    default_text = "the store cannot be reached"


class ProofInvalid(HsmdError):
    """A signature or proof is invalid: what it is about was changed, or is something else than it claims to be."""

    code = ErrorCode.PROTOCOL
    default_text = "the proof about the audit log is wrong"


class EnvelopeInvalid(HsmdError):
    """An envelope is malformed, does not open, or cannot be made for this key.

    Everything that goes wrong once a private key is used has the default text, so that an altered envelope, a wrong key
    and wrong padding look alike. Other texts are about what anyone can read in the envelope.
    """

    code = ErrorCode.BAD_REQUEST
    default_text = "the envelope does not open: it was altered, or it was not sealed to this key"


class InternalFault(HsmdError):
    """A bug in hsmd."""


class PeerError(HsmdError):
    """An error whose code this release does not know."""

    def __init__(self, code: int, text: str, *, retry_after_ms: int = 0) -> None:
        super().__init__(text, retry_after_ms=retry_after_ms)
        self.code = code


class ConfigurationError(HsmdError):
    """A configuration file is invalid; `faults` lists all faults, not just the first."""

    code = ErrorCode.BAD_REQUEST

    def __init__(self, source: str, faults: list[str]) -> None:
        self.source = source
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{source}: {fault}" for fault in faults))


class NotInstalled(ConfigurationError):
    """A program or library of this host is missing; `package` is the one of Debian that contains it."""

    def __init__(self, name: str, package: str) -> None:
        self.name = name
        self.package = package
        super().__init__(name, [f"is not installed; on Debian: apt-get install {package}"])


_BY_CODE: dict[int, type[HsmdError]] = {
    int(cls.code): cls
    for cls in (
        ProtocolError, VersionMismatch, PurposeMismatch, NotFound, BadRequest, Conflict, Unavailable, Overloaded,
        DeadlineExceeded, Draining, TokenFailure, AuditFailure, StoreFailure, InternalFault,
    )
}  # fmt: skip


def from_wire(code: int, text: str, retry_after_ms: int = 0) -> HsmdError:
    """The error that a peer's `error` frame describes; an unknown code gives a `PeerError`."""
    if code == ErrorCode.REFUSED:
        return Refused()
    cls = _BY_CODE.get(code)
    if cls is None:
        return PeerError(code, text, retry_after_ms=retry_after_ms)
    return cls(text, retry_after_ms=retry_after_ms)
