"""Why no key may be used at present, as the parts of the front report it that watch the audit log and the store."""

from __future__ import annotations

from enum import IntEnum

from hsmd.errors import HsmdError


class Reason(IntEnum):
    """What holds the keys; the lowest one that applies is answered to clients."""

    CONTINUITY = 0
    """The audit log is not the one that the store remembers."""
    DISK = 1
    """The audit log's file system is almost full."""
    STORE = 2
    """The store has been unreachable for so long that grants may have been revoked unnoticed."""

    @property
    def condition(self) -> str:
        """Its name in the daemon's status."""
        return _CONDITIONS[self]


_CONDITIONS = {
    Reason.CONTINUITY: "log-broken",
    Reason.DISK: "disk-full",
    Reason.STORE: "store-stale",
}


class KeyHold:
    """The reasons that apply now. `error` is what a use of a key fails with, None while keys may be used."""

    def __init__(self) -> None:
        self.error: HsmdError | None = None
        self._errors: dict[Reason, HsmdError] = {}

    @property
    def conditions(self) -> list[str]:
        """The names of all that apply now."""
        return [reason.condition for reason in sorted(self._errors)]

    def set(self, reason: Reason, error: HsmdError | None) -> bool:
        """Have uses of keys fail with `error`, or end this reason with None; return whether the reason began or ended."""
        held = reason in self._errors
        if error is None:
            self._errors.pop(reason, None)
        else:
            self._errors[reason] = error
        self.error = self._errors[min(self._errors)] if self._errors else None
        return held != (error is not None)
