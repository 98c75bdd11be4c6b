"""Checks: whether a public key is one that an owner has deposited, answered in a statement that names the asker.

An unknown owner, a missing right and an owner without a proven management key have the same answer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from hsmd.daemon.audit.refusals import RecordRate
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.statements.signer import StatementSigner
from hsmd.daemon.front.vault import prices
from hsmd.daemon.front.vault.alterations import Alterations
from hsmd.daemon.front.vault.check_records import CheckRecords
from hsmd.daemon.front.vault.trust import Altered, Trust
from hsmd.daemon.store import CheckCount, Transaction, VersionRecord
from hsmd.envelopes.vault import answers
from hsmd.envelopes.vault.answers import Answer, Verdict
from hsmd.envelopes.vault.fields import format_time
from hsmd.envelopes.vault.life_cycle import Standing
from hsmd.envelopes.vault.public_keys import canonical_spki
from hsmd.errors import Overloaded, Refused
from hsmd.protocol.messages.vault_checks import VaultCheck

PER_SECOND, BURST = 50.0, 200
"""Checks of one client, each of which costs a signature in the token."""
AT_ONCE_OF_CLIENT, AT_ONCE = 8, 32
"""Checks that are under way, of one client and of all."""
RETRY_S = 0.1


class _Found(NamedTuple):
    """What the store knows for a check; `version` is None if the key is none of the owner's."""

    owner_row: int
    verdict: Verdict
    version: VersionRecord | None = None


class Checks:
    """Answers checks. None of them changes a count of uses."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        trust: Trust,
        signer: StatementSigner,
        records: CheckRecords,
        alterations: Alterations,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = cache
        self._trust = trust
        self._signer = signer
        self._records = records
        self._alterations = alterations
        self._clock = clock
        self._now = now
        self._rate = RecordRate(BURST, PER_SECOND)
        self._under_way = Counter[str]()

    async def check(self, identity: Identity, request: VaultCheck, deadline: float) -> str:
        """The signed answer. Raises BadRequest (no canonical public key), Overloaded, or what a signature fails with."""
        with self._admitted(identity.client):
            prices.charge(prices.CHECK)
            key = canonical_spki(request.key).digest
            found = await self._look_up(identity, request, key)
            answer = self._answer(identity.client, request, key, found)
            self._note(identity, request, key, found, answer)
            return await self._signer.sign_statement(answers.KIND, answer.lines(), deadline)

    @contextmanager
    def _admitted(self, client: str) -> Iterator[None]:
        """Raises Overloaded for a client, or a time, with too many checks."""
        self._records.check_room()
        full = self._under_way[client] >= AT_ONCE_OF_CLIENT or self._under_way.total() >= AT_ONCE
        if full or not self._rate.take(client, self._clock()):
            raise Overloaded.retry_in(RETRY_S)
        self._under_way[client] += 1
        try:
            yield
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]

    async def _look_up(self, identity: Identity, request: VaultCheck, key: bytes) -> _Found:
        row = self._cache.snapshot.identities.client_row(identity)
        if row is None:
            raise Refused(detail="withdrawn-credential")
        await self._trust.ready()
        altered: list[Altered] = []

        def read(tx: Transaction) -> _Found:
            return self._judge(tx, identity, row, request, key, altered)

        found = await self._cache.read(read)
        for error in altered:
            self._alterations.note(request.owner, request.record, error)
        return found

    def _judge(
        self,
        tx: Transaction,
        identity: Identity,
        row: int,
        request: VaultCheck,
        key: bytes,
        altered: list[Altered],
    ) -> _Found:
        """The verdict, from rows that are proven; those that are not are added to `altered` and count for nothing."""
        facts = tx.vault_checkers.look_up(request.owner, row, identity.roles, key, request.record)
        if facts is None:
            return _Found(tx.vault_checkers.owner_row(request.owner), Verdict.NO_ANSWER)
        try:
            active = self._trust.active(tx, request.owner)
        except Altered as error:
            altered.append(error)
            active = None
        if active is None:
            return _Found(facts.owner_row, Verdict.NO_ANSWER)
        for version in facts.found:
            try:
                self._trust.head(tx, request.owner, version, active)
            except Altered as error:
                altered.append(error)
                continue
            verdict = Verdict.MATCH_PREVIOUS if version.superseded else Verdict.MATCH
            return _Found(facts.owner_row, verdict, version)
        return _Found(facts.owner_row, Verdict.MISMATCH)

    def _answer(self, asker: str, request: VaultCheck, key: bytes, found: _Found) -> Answer:
        now = self._now()
        question = (asker, request.owner, key.hex(), request.nonce.hex(), found.verdict, format_time(now))
        version = found.version
        if version is None:
            return Answer(*question)
        standing: Standing = version.judge(now)
        return Answer(
            *question,
            record=version.record,
            version=version.version,
            state=standing.state,
            reason=standing.reason,
            not_before=_text(version.not_before),
            not_after=_text(version.not_after),
            uses_left=standing.uses_left,
            usable=standing.usable,
        )

    def _note(
        self, identity: Identity, request: VaultCheck, key: bytes, found: _Found, answer: Answer
    ) -> None:
        row = self._cache.snapshot.identities.client_row(identity) or 0
        verdict = found.verdict.value
        count = CheckCount(found.owner_row, identity.client, row, answer.record, verdict, self._now())
        self._records.note(request.owner, key.hex(), count)


def _text(moment: datetime | None) -> str:
    return "" if moment is None else format_time(moment)
