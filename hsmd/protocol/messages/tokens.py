"""Control requests about tokens: how they are, and whether daemons may log in to them."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from hsmd.protocol.messages.base import (
    AUDITOR,
    NO_SUBJECT,
    OPERATOR,
    Done,
    Request,
    Text,
)

__all__ = ["TokenClear", "TokenInfo", "TokenInfoList", "TokenList"]


class TokenInfo(Struct):
    """One token. `stopped_at` is there when nobody of the fleet may log in; `stopped_by` and `stop_reason` say more.

    `missing` are names of keys that the store knows and the token does not serve, `unknown` digests (hex) of keys with a ceiling
    that the store does not know; both as of `compared_at`, None before the first look.
    """

    name: str
    state: str
    breaker: str
    reason: str
    stopped_at: datetime | None = None
    stopped_by: str = ""
    stop_reason: str = ""
    missing: list[str] = []
    unknown: list[str] = []
    compared_at: datetime | None = None


class TokenInfoList(Struct):
    """All tokens of this daemon."""

    tokens: list[TokenInfo]


class TokenList(Request, tag="token.list"):
    """Operator, auditor: how are the tokens, and may daemons log in to them?"""

    Result = TokenInfoList
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT


class TokenClear(Request, tag="token.clear"):
    """Operator: the PIN is mended; one login may be tried again, and all others if it succeeds."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT

    name: Text
