"""Decides, after a call to the token failed, what the caller is told and whether this worker can keep its session."""

from __future__ import annotations

from hsmd.daemon.worker.backend import Backend, Key
from hsmd.errors import HsmdError, Refused, TokenFailure
from hsmd.pkcs11.errors import Fault, classify, name_of

MAX_UNCLEAR_IN_A_ROW = 8
"""A token that answers nothing but general errors gets a fresh session even though its probe succeeds."""


class SessionGuard:
    """Judges a session by its failures. Once `recycle` holds a reason, a fresh worker must replace this one."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._unclear = 0
        self.recycle = ""

    def succeeded(self) -> None:
        """A key was used successfully."""
        self._unclear = 0

    def use_failed(self, error: Exception, digest: bytes) -> HsmdError:
        """The error to answer after the use of a key failed. It is not to be sent if `recycle` is set."""
        fault = classify(error)
        if fault is Fault.KEY_GONE:
            return self._key_gone(digest)
        if fault is Fault.UNCLEAR:
            self._unclear += 1
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
        try:
            self._backend.scan()
        except Exception as error:
            self.recycle = _search_failed(error)

    def probe(self) -> str:
        """Use each part of the token that signing needs. Returns the fault, empty if none."""
        try:
            self._backend.probe()
        except Exception as error:
            self.recycle = f"a probe of the token failed: {name_of(error)}"
            return self.recycle
        return ""

    def _judge(self, fault: Fault, error: Exception) -> None:
        if fault is Fault.POISONED or (fault is Fault.UNCLEAR and not self._session_works()):
            self.recycle = name_of(error)

    def _key_gone(self, digest: bytes) -> HsmdError:
        """The handle became invalid: the key was destroyed, or the session is no longer usable."""
        self.rescan()
        if self.recycle:
            return TokenFailure()
        if digest in self._backend.keys:
            self.recycle = "a handle became invalid, but its key is there"
            return TokenFailure()
        if not self._backend.keys:
            # Destroyed keys are announced. If all disappear at once, the token may have been removed: a new session shows.
            self.recycle = "the token no longer shows any of its keys"
            return TokenFailure()
        return Refused(detail="the key is gone")

    def _session_works(self) -> bool:
        if self._unclear >= MAX_UNCLEAR_IN_A_ROW:
            return False
        try:
            self._backend.ping()
        except Exception:
            return False
        return True


def _search_failed(error: Exception) -> str:
    return f"looking for keys failed: {name_of(error)}"
