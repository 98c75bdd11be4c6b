"""Reconciliation: compares the keys that the store lists for a token with those that the token serves. It changes neither.

Differences come from a daemon that ended while it made or destroyed a key, another program that uses the token, or a store that
was restored. They are shown (`hsmd token list`, the log) and left to an operator: a key that is in the token without a record may
be the last copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from hsmd import observe
from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.front.tokens.pool import TokenPool
from hsmd.daemon.ipc.worker_messages import Describe, KeyDescription, KeyDescriptions
from hsmd.errors import HsmdError

INTERVAL_S = 300.0
RETRY_S = 5.0
"""How soon a token that could not be asked is asked again."""
TIMEOUT_S = 60.0
MOST_PROBLEMS = 100

log = observe.logger()


@dataclass(frozen=True, slots=True)
class Differences:
    """`missing`: names of keys in the store that the token does not serve; `unknown`: digests of served keys not in the store.

    `not_served`: name (empty if unknown), digest and problem of the first keys that have a ceiling and are not served.
    """

    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    at: datetime
    not_served: tuple[tuple[str, str, str], ...] = ()


def compare(stored: Mapping[bytes, str], described: Iterable[KeyDescription], at: datetime) -> Differences:
    """`stored`: names, by digest, of the keys that the store lists for the token."""
    served: set[bytes] = set()
    problems: list[tuple[str, str, str]] = []
    for key in described:
        digest = bytes.fromhex(key.key)
        if key.problem:
            problems.append((stored.get(digest, ""), key.key, key.problem))
        else:
            served.add(digest)
    missing = tuple(sorted(name for digest, name in stored.items() if digest not in served))
    unknown = tuple(sorted(digest.hex() for digest in served - stored.keys()))
    return Differences(missing, unknown, at, tuple(sorted(problems)[:MOST_PROBLEMS]))


class Reconciler:
    """Compares each token regularly, by its control worker. `found` holds the latest differences by token."""

    def __init__(self, *, pools: Mapping[str, TokenPool], snapshot: Callable[[], Snapshot]) -> None:
        self._pools = pools
        self._snapshot = snapshot
        self.found: dict[str, Differences] = {}

    async def follow(self) -> None:
        """Compare at the start and every `INTERVAL_S`; runs until cancelled."""
        while True:
            done = [await self._compare(name, pool) for name, pool in list(self._pools.items())]
            for name in self.found.keys() - self._pools.keys():
                del self.found[name]
            await asyncio.sleep(INTERVAL_S if all(done) else RETRY_S)

    async def _compare(self, name: str, pool: TokenPool) -> bool:
        """Compare one token; return whether it could be asked."""
        try:
            answer: KeyDescriptions = await pool.control(Describe(), TIMEOUT_S)
        except HsmdError:
            return False
        found = compare(self._snapshot().keys_in(name), answer.keys, datetime.now(UTC))
        before = self.found.get(name)
        if (found.missing, found.unknown) != ((before.missing, before.unknown) if before else ((), ())):
            log.warning(
                "token.differs",
                token=name,
                reason=f"{len(found.missing)} missing, {len(found.unknown)} unknown",
            )
        self.found[name] = found
        return True
