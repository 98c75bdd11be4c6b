"""The keys that a worker serves: resolved once from ceilings and private keys, then looked up by digest.

A key is resolved by its CKA_ID and its public half together (`key_pairs`). It is served only if one private key object matches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from pkcs11 import Attribute, KeyHandleInvalid, ObjectHandleInvalid, PKCS11Error

from hsmd.daemon.worker import ceilings, private_keys, reserves
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.daemon.worker.key_pairs import KeyPairs
from hsmd.daemon.worker.operations import OpenKey, open_key
from hsmd.errors import TokenFailure
from hsmd.pkcs11.errors import Fault, classify, name_of
from hsmd.pkcs11.search import OBJECTS_A_SLICE, Slices, finish, underlying
from hsmd.purposes import AuthorityConstraints, Beside
from hsmd.purposes.ceiling_constraints import authority_constraints

FIND_INTERVAL_S = 1.0
"""A key that was not found is not looked for again before this; see `MISSING_S`."""
FIND_SHARE = 20
"""Looking for keys that the worker does not know takes at most this fraction of its time..."""
FIND_BURST_S = 2.0
"""... of which this much can be saved: a key that another daemon has just made is found at once. With 10,000 keys SoftHSM takes
a second for each."""
MISSING_S = 64.0
"""A key that is not there is looked for again after 1 s, then 2, 4 and so on up to this."""
MAX_MISSING = 1_000
"""Keys of which it is remembered that they are not there."""

KEYS_READ = 4
"""Keys that a probe tries to read before it searches the token."""

_Gone = (KeyHandleInvalid, ObjectHandleInvalid)


class KeyIndex:
    """The keys of the token that have a ceiling: the `Backend` of a worker's loop."""

    def __init__(
        self,
        session: Any,
        *,
        verify: str,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._session = session
        self._beside = Beside(self._authority, self._reserve, wall_clock)
        self._verify = verify
        self._clock = clock
        self._privates: dict[bytes, Any] = {}
        self._find_budget_s = FIND_BURST_S
        self._budgeted_at = clock()
        self._missing: dict[bytes, tuple[float, float]] = {}
        self._added: dict[bytes, OpenKey] = {}
        self.keys: dict[bytes, OpenKey] = {}

    def scan(self) -> None:
        """Search the token. Unchanged keys stay open; one that is destroyed meanwhile is left out.

        Raises PKCS11Error, also if no key is left of those that were found, because then the token itself may have failed.
        """
        finish(self.scanning())

    def scanning(self) -> Slices[None]:
        """`scan` in slices: keys that are found meanwhile stay, and all others change at the end."""
        self._added = {}
        privates = yield from private_keys.reading_by_id(self._session)
        found = yield from ceilings.reading_all(self._session)
        keys: dict[bytes, OpenKey] = {}
        opened: dict[bytes, Any] = {}
        pairs = KeyPairs()
        gone: Exception | None = None
        for number, (digest, ceiling) in enumerate(found.items(), start=1):
            try:
                private = self._paired(pairs, ceiling, privates.get(ceiling.cka_id, []))
                if private is None:
                    continue
                keys[digest] = self._opened(private, ceiling)
                opened[digest] = underlying(private)
            except PKCS11Error as error:  # this key may be destroyed, or fail alone
                if classify(error) is Fault.POISONED:
                    raise
                gone = error
            if number % OBJECTS_A_SLICE == 0:
                yield
        if gone is not None and not keys:
            raise gone
        opened = {**{digest: self._privates[digest] for digest in self._added}, **opened}
        self.keys, self._privates = {**self._added, **keys}, opened

    def looking_up(self, digest: bytes) -> Slices[None]:
        """Look for one key, in slices: open it, or forget it if it is not there. Raises PKCS11Error."""
        ceiling = ceilings.of_key(self._session, digest)
        yield
        private = None
        if ceiling is not None:
            candidates = private_keys.with_id(self._session, ceiling.cka_id)
            yield
            private = self._paired(KeyPairs(), ceiling, candidates)
        if ceiling is None or private is None:
            self.forget(digest)
            return
        try:
            opened = self._opened(private, ceiling)
        except PKCS11Error as error:
            if classify(error) in (Fault.POISONED, Fault.KEY_GONE):
                raise
            self.forget(digest)
            return
        self._missing.pop(digest, None)
        self.keys[digest] = self._added[digest] = opened
        self._privates[digest] = underlying(private)

    def forget(self, digest: bytes) -> None:
        """A key was destroyed."""
        for known in (self.keys, self._added, self._privates):
            known.pop(digest, None)

    def ping(self) -> None:
        """Use the session. Raises PKCS11Error if it is unusable."""
        self._session.generate_random(64)

    def probe(self) -> None:
        """Use slot, session and one key. Raises PKCS11Error, TokenFailure if all keys are gone."""
        self._session.token.slot.get_token()
        self.ping()
        self._read_one_key()

    def _read_one_key(self) -> None:
        """Some may have been destroyed; if none of a few can be read, all are searched for."""
        if not self._privates:
            return
        for digest, private in list(islice(self._privates.items(), KEYS_READ)):
            try:
                _ = private[Attribute.ID]
            except _Gone:
                self.forget(digest)
            else:
                return
        self.scan()
        if not self.keys:
            raise TokenFailure("none of its keys is left")

    def find(self, digest: bytes) -> OpenKey | None:
        """A key that this worker does not know, or None. Looks for it within limits: see `FIND_SHARE`. Raises PKCS11Error."""
        now = self._clock()
        until, pause_s = self._missing.get(digest, (0.0, FIND_INTERVAL_S / 2))
        if now < until or not self._may_search(now):
            return None
        try:
            finish(self.looking_up(digest))
        finally:
            self._find_budget_s -= self._clock() - now
        key = self.keys.get(digest)
        if key is None:
            self._note_missing(digest, min(2 * pause_s, MISSING_S))
        return key

    def _may_search(self, now: float) -> bool:
        earned_s = (now - self._budgeted_at) / FIND_SHARE
        self._find_budget_s = min(FIND_BURST_S, self._find_budget_s + earned_s)
        self._budgeted_at = now
        return self._find_budget_s > 0

    def _note_missing(self, digest: bytes, pause_s: float) -> None:
        while len(self._missing) >= MAX_MISSING:
            del self._missing[next(iter(self._missing))]
        self._missing[digest] = self._clock() + pause_s, pause_s

    def _paired(self, pairs: KeyPairs, ceiling: Ceiling, candidates: list[Any]) -> Any | None:
        """The private key of a ceiling; None if there is none."""
        known = self.keys.get(ceiling.half.digest)
        proven = known.handle if known is not None and known.ceiling.value == ceiling.value else None
        return pairs.private_key(ceiling, candidates, proven).private

    def _opened(self, private: Any, ceiling: Ceiling) -> OpenKey:
        known = self.keys.get(ceiling.half.digest)
        if known is not None and known.handle == private.handle and known.ceiling.value == ceiling.value:
            return known
        return open_key(private, ceiling, verify=self._verify, beside=self._beside)

    def _authority(self, digest: bytes) -> AuthorityConstraints | None:
        """What the ceiling of a key of this token permits as an authority; None if it is not open, or is none."""
        known = self.keys.get(digest)
        return None if known is None else authority_constraints(known.ceiling.constraints)

    def _reserve(self, digest: bytes) -> AuthorityConstraints | None:
        """The most that a reserve of this token may be adopted for. It is asked for links alone, so nothing is remembered.

        Raises TokenFailure.
        """
        try:
            reserve = reserves.read_all(self._session).get(digest)
        except PKCS11Error as error:
            raise TokenFailure(f"the token does not show its reserves: {name_of(error)}") from None
        return None if reserve is None else reserve.limits
