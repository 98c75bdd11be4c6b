"""Which stored certificates have ended or end soon, kept in order so that no question goes through all of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from sys import maxsize

from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.store import CertificateMark, Difference

PART_OF_TERM = 5
"""A certificate whose term is short ends soon in the last fifth of it, where that is less than the days of the setting."""
MOST_ONE_BY_ONE = 1_000
"""Of more changes than this at once, the lists are sorted anew."""


class CertificateState(StrEnum):
    """How a stored certificate stands at a time."""

    NOT_YET_VALID = "not-yet-valid"
    VALID = "valid"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class CertificateEnd:
    """The key of this name has a certificate that ends at `not_after`."""

    key: str
    not_after: datetime
    state: CertificateState


@dataclass(frozen=True, slots=True)
class CertificateCounts:
    """Certificates that are stored, those that have ended, and those that will soon."""

    stored: int
    ended: int
    ending: int


Moment = tuple[datetime, int]
"""A time, and the row id of a key."""


class CertificateEnds:
    """One for each daemon. A change of the store costs as much as it has changed certificates."""

    def __init__(
        self,
        cache: SnapshotCache,
        warn_days: int,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = cache
        self._warn_before = timedelta(days=warn_days)
        self._now = now
        self._known: dict[int, CertificateMark] = {}
        self._ends: list[Moment] = []
        self._warnings: list[Moment] = []
        self._begin()
        cache.on_change(self._store_changed)

    def apply(self, warn_days: int) -> None:
        """Use this setting from now on."""
        self._warn_before = timedelta(days=warn_days)
        self._begin()

    def counts(self) -> CertificateCounts:
        """How many certificates there are in each state now."""
        until_now = (self._now(), maxsize)
        ended = bisect_right(self._ends, until_now)
        return CertificateCounts(len(self._ends), ended, bisect_right(self._warnings, until_now) - ended)

    def first(self, number: int) -> list[CertificateEnd]:
        """The certificates that end first, at most so many, in that order; those that have ended come before the others."""
        now, snapshot = self._now(), self._cache.snapshot
        found = ((snapshot.certificate_of(row), not_after) for not_after, row in self._ends)
        ends = (
            CertificateEnd(each[0], not_after, self._state(each[1], now)) for each, not_after in found if each
        )
        return list(islice(ends, number))

    def state(self, key: str) -> str:
        """How the certificate of the key of this name stands now; empty if there is none."""
        certificate = self._cache.snapshot.certificate_of_key(key)
        return "" if certificate is None else self._state(certificate, self._now()).value

    def _state(self, certificate: CertificateMark, now: datetime) -> CertificateState:
        if certificate.not_after <= now:
            return CertificateState.ENDED
        if certificate.not_before is not None and certificate.not_before > now:
            return CertificateState.NOT_YET_VALID
        return CertificateState.ENDING if self._warned_from(certificate) <= now else CertificateState.VALID

    def _warned_from(self, certificate: CertificateMark) -> datetime:
        before = self._warn_before
        if certificate.not_before is not None:
            before = min(before, (certificate.not_after - certificate.not_before) / PART_OF_TERM)
        return certificate.not_after - max(before, timedelta())

    def _begin(self) -> None:
        self._known = dict(self._cache.snapshot.certificates())
        self._sort(self._known.items())

    def _sort(self, certificates: Iterable[tuple[int, CertificateMark]]) -> None:
        listed = list(certificates)
        self._ends = sorted((each.not_after, row) for row, each in listed)
        self._warnings = sorted((self._warned_from(each), row) for row, each in listed)

    def _store_changed(self, difference: Difference) -> None:
        if difference.whole or len(difference.certificates) > MOST_ONE_BY_ONE:
            self._begin()
            return
        for row, found in difference.certificates.items():
            known = self._known.pop(row, None)
            if known is not None:
                _remove(self._ends, (known.not_after, row))
                _remove(self._warnings, (self._warned_from(known), row))
            if found is not None:
                self._known[row] = found
                insort(self._ends, (found.not_after, row))
                insort(self._warnings, (self._warned_from(found), row))


def _remove(moments: list[Moment], moment: Moment) -> None:
    at = bisect_left(moments, moment)
    if moments[at : at + 1] == [moment]:
        del moments[at]
