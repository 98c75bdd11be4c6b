"""Management keys of owners in tests: made once, because RSA takes long."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.holder.management_keys import Pair, Place, SoftwareManagementKey, generate_pair, state

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
OWNER = "anna"
CHEAP = 1 << 14
"""Cost of scrypt in tests."""


@cache
def pair(suite: WrappingSuite, number: int = 1) -> Pair:
    """Private halves; another number is another pair."""
    return generate_pair(suite)


@cache
def management_key(
    suite: WrappingSuite = WrappingSuite.X25519, number: int = 1, owner: str = OWNER
) -> SoftwareManagementKey:
    """The management key with this number, which replaces the one before it, if there is one."""
    if number == 1:
        return state(pair(suite), Place(owner), NOW)
    before = management_key(suite, number - 1, owner)
    return state(pair(suite, number), Place.behind(before.statement), NOW, replaces=before)
