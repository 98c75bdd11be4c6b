"""When one token was last changed: for some time, and at its first use after it, a worker may then be slow without hanging.

SoftHSM reads its directory again in each process, at the next use of a key, once another process has made or destroyed an object.
With 10,000 keys this takes 0.2 s of CPU, and seconds on a machine that has no processor free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hsmd.daemon.front.tokens.worker_channel import MANY_KEYS, SEARCH_LIMIT_S, WorkerChannel
from hsmd.daemon.ipc.worker_messages import Adopt, Destroy, Generate, TokenRequest, Unwrap

ONE_AT_A_TIME_S = 1.0
"""For this long after a change, workers that have to read what the token holds are given jobs one at a time."""


def is_quick_change(request: TokenRequest) -> bool:
    """Whether the request makes several objects within milliseconds, all of which workers can read again at once."""
    return isinstance(request, Generate) and not request.key_type.startswith("rsa")


class TokenChanges:
    """Judges by the changes of a token whether a worker hangs. Call everything from the event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic."""
        self._clock = clock
        self._under_way = 0
        self._ended_at = self._given_up_at = float("-inf")

    @contextmanager
    def made_by(self, request: TokenRequest) -> Iterator[None]:
        """The block carries out this request, which may change the token."""
        if not isinstance(request, Generate | Adopt | Destroy | Unwrap):
            yield
            return
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self.note()

    def note(self) -> None:
        """The token was changed, by this daemon or by others."""
        self._ended_at = self._clock()

    def read_again_by_all(self, workers: list[WorkerChannel]) -> bool:
        """Whether those of the workers that have jobs have used the token since the last change, or have had enough time.

        For a moment after it those that have none count as well, if others have some: they will be given theirs.
        """
        at = self._ended_at
        if self._clock() - at >= SEARCH_LIMIT_S:
            return True
        busy = [each for each in workers if each.jobs]
        if busy and self.recent and self._to_read(workers):
            return False
        return all(each.used_at > at for each in busy)

    @property
    def recent(self) -> bool:
        """Whether the token was changed a moment ago."""
        return self._clock() - self._ended_at < ONE_AT_A_TIME_S

    def to_be_given_jobs(self, workers: list[WorkerChannel]) -> list[WorkerChannel]:
        """Those of the workers that have read what a token with many keys holds since its last change, and one that has not.

        Two that read at the same time take each other's processor, and the jobs of both wait twice as long.
        """
        if not self.recent:
            return workers
        to_read = self._to_read(workers)
        if len(to_read) < 2:
            return workers
        first = next((each for each in to_read if each.jobs), to_read[0])
        return [each for each in workers if each is first or each not in to_read]

    def _to_read(self, workers: list[WorkerChannel]) -> list[WorkerChannel]:
        return [each for each in workers if each.keys >= MANY_KEYS and each.used_at <= self._ended_at]

    def stalled(self, worker: WorkerChannel, now: float, stall_s: float) -> bool:
        """Whether a worker is to be given up for having made no progress.

        Those that may be slow because of a change are given up one at a time, so that a token which is slow for all of them
        does not lose all.
        """
        changed_at = now if self._under_way else self._ended_at
        if not worker.stalled(now, stall_s, changed_at):
            return False
        if worker.may_read_again(changed_at):
            if now - self._given_up_at < SEARCH_LIMIT_S:
                return False
            self._given_up_at = now
        return True
