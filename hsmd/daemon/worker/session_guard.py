"""Decides, after a call to the token failed, what the caller is told and whether this worker can keep its session.

A failure that may be of one key alone does not end the worker: the session is kept if another key still works.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import islice

from hsmd.daemon.worker.backend import Backend, Key
from hsmd.daemon.worker.signatures import WrongKey
from hsmd.errors import HsmdError, Refused, TokenFailure
from hsmd.pkcs11.errors import Fault, classify, name_of
from hsmd.pkcs11.search import Slices

MAX_UNCLEAR_IN_A_ROW = 8
"""After so many general errors in a row a session is kept only if another key works in it, not because its probe succeeds."""
OTHERS_TRIED = 3
"""Other keys that are used, one after the other, until one works."""
CHECK_INTERVAL_S = 1.0
"""A key that keeps failing makes the worker use other keys, or look for this one in the token, at most this often..."""
SEARCH_SHARE = 20
"""... and so that looking for it takes at most this fraction of the worker's time."""
_CHALLENGE_BYTES = 32


class SessionGuard:
    """Judges a session by its failures. Once `recycle` holds a reason, a fresh worker must replace this one."""

    def __init__(self, backend: Backend, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend = backend
        self._clock = clock
        self._unclear = 0
        self._checked_at, self._checked_for = 0.0, b""
        self._search_at = float("-inf")
        self.recycle = ""

    def succeeded(self) -> None:
        """A key was used successfully."""
        self._unclear = 0

    def use_failed(self, error: Exception, digest: bytes) -> HsmdError:
        """The error to answer after the use of a key failed. It is not to be sent if `recycle` is set."""
        if isinstance(error, WrongKey):
            return error
        fault = classify(error)
        if fault is Fault.KEY_GONE:
            return self._key_gone(error, digest)
        if fault is Fault.DOUBTFUL:
            return self._of_this_key(error, digest)
        if fault is Fault.UNCLEAR:
            self._unclear += 1
            if self._unclear >= MAX_UNCLEAR_IN_A_ROW:
                return self._of_this_key(error, digest)
        self._judge(fault, error)
        return TokenFailure()

    def control_failed(self, error: Exception) -> HsmdError:
        """The error to answer after a control operation failed."""
        self._judge(classify(error), error)
        return TokenFailure(f"the token refused: {name_of(error)}")

    def find(self, digest: bytes) -> Key:
        """A key that was not among the open ones. Raises Refused, or TokenFailure if the token cannot be searched."""
        try:
            key = self._backend.find(digest)
        except Exception as error:
            self.recycle = _search_failed(error)
            raise TokenFailure(detail=self.recycle) from None
        if key is None:
            raise Refused(detail="no such key with a ceiling")
        return key

    def rescan(self) -> None:
        """Search the token for keys again."""
        search = self._backend.scanning()
        while not self.advance(search):
            pass

    def advance(self, search: Slices[None]) -> bool:
        """Do the next slice of a search for keys; return whether it was the last one."""
        try:
            next(search)
        except StopIteration:
            return True
        except Exception as error:
            self.recycle = _search_failed(error)
            return True
        return False

    def probe(self) -> str:
        """Use each part of the token that signing needs. Returns the fault, empty if none."""
        try:
            self._backend.probe()
        except Exception as error:
            self.recycle = f"a probe of the token failed: {name_of(error)}"
            return self.recycle
        return ""

    def _judge(self, fault: Fault, error: Exception) -> None:
        doubtful = fault in (Fault.POISONED, Fault.DOUBTFUL)
        if doubtful or (fault is Fault.UNCLEAR and not self._session_works()):
            self.recycle = name_of(error)

    def _of_this_key(self, error: Exception, digest: bytes) -> HsmdError:
        """Keep the session if another key works in it: then the failure is of this key alone."""
        if not self._another_works(digest):
            self.recycle = name_of(error)
            return TokenFailure()
        self._unclear = 0
        return TokenFailure(f"the token refused this key: {name_of(error)}; other keys of the token work")

    def _key_gone(self, error: Exception, digest: bytes) -> HsmdError:
        """The handle became invalid: the key was destroyed, or the session is no longer usable."""
        now = self._clock()
        if now >= self._search_at or digest not in self._backend.keys:
            self._look_up(digest)
            self._search_at = now + max(CHECK_INTERVAL_S, SEARCH_SHARE * (self._clock() - now))
        if self.recycle:
            return TokenFailure()
        if digest in self._backend.keys:
            return self._of_this_key(error, digest)
        if not self._backend.keys:
            # Destroyed keys are announced. If all disappear at once, the token may have been removed: a new session shows.
            self.recycle = "the token no longer shows any of its keys"
            return TokenFailure()
        return TokenFailure() if self.probe() else Refused(detail="the key is gone")

    def _look_up(self, digest: bytes) -> None:
        """Look for one key, and for all if none is left without it."""
        search = self._backend.looking_up(digest)
        while not self.advance(search):
            pass
        if not self._backend.keys:
            self.rescan()

    def _another_works(self, digest: bytes) -> bool:
        """Whether one of a few other keys can be used. Nothing leaves the worker, and what is signed is random."""
        now = self._clock()
        if digest == self._checked_for and now - self._checked_at < CHECK_INTERVAL_S:
            return True
        others = (key for key in self._backend.keys.values() if key.digest != digest and key.operations)
        for key in islice(others, OTHERS_TRIED):
            operation = next(iter(key.operations.values()))
            try:
                operation.use(operation.prepare(os.urandom(_CHALLENGE_BYTES)))
            except Exception:  # the next one may work
                continue
            self._checked_at, self._checked_for = now, digest
            return True
        return False

    def _session_works(self) -> bool:
        try:
            self._backend.ping()
        except Exception:
            return False
        return True


def _search_failed(error: Exception) -> str:
    return f"looking for keys failed: {name_of(error)}"
