"""Control requests about tokens: their state, and whether daemons may log in to them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Struct

from hsmd.protocol.messages.base import AUDITOR, NO_SUBJECT, OPERATOR, Done, Request, Text
from hsmd.protocol.messages.enumerations import BREAKER_STATE, LOGIN_STATE, TOKEN_STATE

__all__ = ["KeyProblem", "TokenClear", "TokenInfo", "TokenInfoList", "TokenList", "TokenStop"]


class KeyProblem(Struct):
    """A key with a ceiling that its token does not serve."""

    key: str
    """Its name in the store; empty if the store does not know it."""
    digest: str
    """Hexadecimal."""
    problem: str


class TokenInfo(Struct):
    """One token, whether daemons may log in to it, and how its keys differ from those in the store."""

    name: str
    """Its name in the daemon's configuration."""
    state: Annotated[str, TOKEN_STATE.meta]
    breaker: Annotated[str, BREAKER_STATE.meta]
    reason: str
    """Why requests fail; empty if they do not."""
    stopped_at: datetime | None = None
    """When logins were stopped because the token refused the PIN, or by an operator; null if daemons may log in."""
    stopped_by: str = ""
    """The daemon whose login was refused, and its host, or the operator."""
    stop_reason: str = ""
    missing: list[str] = []
    """Names of keys that the store knows and the token does not serve: at most 1,000 of them."""
    unknown: list[str] = []
    """Digests (hexadecimal) of keys with a ceiling that the store does not know: at most 1,000 of them."""
    compared_at: datetime | None = None
    """When `missing` and `unknown` were found; null before the first comparison."""
    abilities: list[str] = []
    """Names of the PKCS#11 mechanisms that the daemon can use, without `CKM_`."""
    wrapping: list[str] = []
    """What the token was found to do with wrapped keys, as in the answer of `status`."""
    write_protected: bool = False
    """Whether the token refused a session that could make keys. Its keys are used nevertheless."""
    serial: str = ""
    """Its serial number; empty until a worker has opened it."""
    not_served: list[KeyProblem] = []
    """Keys with a ceiling in the token that it does not serve, and why: at most 100 of them."""
    missing_count: int = 0
    """How many keys `missing` is about, also of those that it does not name."""
    unknown_count: int = 0
    """How many keys `unknown` is about, also of those that it does not name."""
    logins: Annotated[str, LOGIN_STATE.meta] = ""
    """Empty from daemons of earlier releases."""


class TokenInfoList(Struct):
    """All tokens of this daemon."""

    tokens: list[TokenInfo]


class TokenList(Request, tag="token.list"):
    """List the tokens of this daemon."""

    Result = TokenInfoList
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT


class TokenClear(Request, tag="token.clear"):
    """Allow logins to a token again after its PIN was fixed: one worker tries first, all others log in if it succeeds."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT

    name: Text


class TokenStop(Request, tag="token.stop"):
    """Stop logins to a token until `token.clear`, to change its PIN: no daemon tries the old one meanwhile.

    Workers that are logged in go on.
    """

    Result = Done
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT

    name: Text
    reason: Text
