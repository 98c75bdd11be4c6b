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
from hsmd.daemon.ipc.worker_messages import Describe, KeyDescription
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


class Comparison:
    """What the token serves, taken in pages: of the keys only what the differences need."""

    def __init__(self) -> None:
        self._served: set[bytes] = set()
        self._problems: list[tuple[bytes, str]] = []

    def add(self, described: Iterable[KeyDescription]) -> None:
        """Some of the keys that have a ceiling in the token."""
        for key in described:
            if not key.problem:
                self._served.add(bytes.fromhex(key.key))
            elif len(self._problems) < MOST_PROBLEMS:
                self._problems.append((bytes.fromhex(key.key), key.problem))

    def with_stored(
        self, before: Mapping[bytes, str], after: Mapping[bytes, str], at: datetime
    ) -> Differences:
        """`before`, `after`: names, by digest, of the keys that the store listed for the token before and after the search.

        A key that was made or destroyed meanwhile is no difference.
        """
        served = self._served
        missing = sorted(name for digest, name in after.items() if digest in before and digest not in served)
        unknown = sorted(digest.hex() for digest in served if digest not in before and digest not in after)
        problems = sorted((after.get(digest, ""), digest.hex(), text) for digest, text in self._problems)
        return Differences(tuple(missing), tuple(unknown), at, tuple(problems[:MOST_PROBLEMS]))


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
        before_search = self._snapshot().keys_in(name)
        comparison = Comparison()
        try:
            async for keys in pool.pages(Describe(brief=True), TIMEOUT_S):
                comparison.add(keys)
        except HsmdError:
            return False
        after_search = self._snapshot().keys_in(name)
        found = comparison.with_stored(before_search, after_search, datetime.now(UTC))
        before = self.found.get(name)
        if (found.missing, found.unknown) != ((before.missing, before.unknown) if before else ((), ())):
            log.warning(
                "token.differs",
                token=name,
                reason=f"{len(found.missing)} missing, {len(found.unknown)} unknown",
            )
        self.found[name] = found
        return True
