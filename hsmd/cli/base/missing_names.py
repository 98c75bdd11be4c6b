"""Errors about a key, client or token that does not exist: with existing names that the user may have meant."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hsmd.cli.base.near_names import near
from hsmd.errors import HsmdError, NotFound
from hsmd.protocol.messages import (
    MAX_PAGE,
    ClientList,
    ClientPage,
    KeyList,
    KeyPage,
    TokenInfoList,
    TokenList,
)

Ask = Callable[..., Any]
"""Session.ask"""
_MISSING = re.compile(r"there is no (?P<kind>key|client|token) '(?P<name>[^']*)'")
MOST_PAGES = 10
"""Pages of names that are compared."""


def with_near_names(error: NotFound, ask: Ask) -> NotFound:
    """`error` with existing names of the same kind that are like the missing one."""
    found = _MISSING.match(error.text)
    if found is None:
        return error
    try:
        names = near(found["name"], _names(found["kind"], ask))
    except HsmdError:
        return error
    if not names:
        return error
    problem, _, advice = error.text.partition("; ")
    return NotFound(f"{problem}; did you mean {' or '.join(names)}? {advice}".rstrip(), detail=error.detail)


def _names(kind: str, ask: Ask) -> list[str]:
    """Names of keys, clients or tokens, as far as the daemon shows them to the caller."""
    if kind == "token":
        return [token.name for token in ask(TokenList(), TokenInfoList).tokens]
    names: list[str] = []
    for _ in range(MOST_PAGES):
        after = names[-1] if names else ""
        if kind == "key":
            keys = ask(KeyList(after=after, limit=MAX_PAGE), KeyPage)
            page, more = [key.name for key in keys.keys], keys.more
        else:
            clients = ask(ClientList(after=after, limit=MAX_PAGE), ClientPage)
            page, more = [client.name for client in clients.clients], clients.more
        names += page
        if not (page and more):
            break
    return names
