"""The keys whose notes prove what operators have confirmed: statement keys that the token has been seen to sign with.

The list of statement keys is in the database, and so could be written by whoever writes there; the keys are in the token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache

from hsmd import observe
from hsmd.daemon.front.statements.signer import StatementSigner
from hsmd.daemon.store.records import KeyRecord
from hsmd.errors import DeadlineExceeded, HsmdError, ProofInvalid, Unavailable
from hsmd.transparency import statement as statements
from hsmd.transparency.note import Note, Verifier
from hsmd.transparency.statement import Statement, signer_of

AGAIN_S = 60.0
"""A key with which the token does not sign is tried again after this time at the earliest."""
SOON_S = 1.0
"""So is one that could not be tried, because the token is away or its workers have not started yet."""
NOTES_REMEMBERED = 1_024

log = observe.logger()


class Anchors:
    """Which statement keys count, and what their notes say. `read` is safe in any thread."""

    def __init__(self, signer: StatementSigner, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._signer = signer
        self._clock = clock
        self._good: tuple[bytes, ...] = ()
        """SubjectPublicKeyInfo of each key that has signed."""
        self._undecided: frozenset[bytes] = frozenset()
        """Of those that could not be tried."""
        self._again_at: dict[bytes, float] = {}
        self._trying = asyncio.Lock()
        self._read = lru_cache(NOTES_REMEMBERED)(_read)

    async def ready(self) -> None:
        """Try the keys that were not tried yet: one signature each, once in the life of this process."""
        if not self._untried():
            return
        async with self._trying:
            for key in self._untried():
                await self._try(key)

    def read(self, note: str, kind: str) -> Statement:
        """The statement in a note of one of the daemons.

        Raises ProofInvalid, or Unavailable while it is not known whether the token has the key of the note: that is no reason
        to call the row altered.
        """
        try:
            return self._read(note, kind, self._good)
        except ProofInvalid:
            undecided = tuple(self._undecided)
            if not undecided or not _verifies(note, kind, undecided):
                raise
        raise Unavailable("the token cannot be asked for the daemon's statement key right now; try again")

    def _untried(self) -> list[KeyRecord]:
        now = self._clock()
        return [
            key
            for key in self._signer.keys.to_pin
            if key.public_key not in self._good and now >= self._again_at.get(key.public_key, now)
        ]

    async def _try(self, key: KeyRecord) -> None:
        spki = key.public_key
        try:
            await self._signer.prove_held(key)
        except HsmdError as error:
            passing = error.retryable or isinstance(error, DeadlineExceeded)
            self._again_at[spki] = self._clock() + (SOON_S if passing else AGAIN_S)
            self._undecided = self._undecided | {spki} if passing else self._undecided - {spki}
            log.warning("vault.statement_key_unproven", key=key.name, error=error.text)
        else:
            self._again_at.pop(spki, None)
            self._undecided -= {spki}
            self._good = (*self._good, spki)


def _read(note: str, kind: str, good: tuple[bytes, ...]) -> Statement:
    try:
        daemon = statements.parse_text(Note.parse(note).text).daemon
    except HsmdError as problem:
        raise ProofInvalid(f"not a note of a daemon: {problem.text}") from None
    verifiers = [Verifier.from_spki(signer_of(daemon), spki) for spki in good]
    return statements.verify(note, verifiers, kind)


def _verifies(note: str, kind: str, keys: tuple[bytes, ...]) -> bool:
    try:
        _read(note, kind, keys)
    except ProofInvalid:
        return False
    return True
