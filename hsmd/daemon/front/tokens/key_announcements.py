"""Tells the signing workers of one token which keys are new in it and which were destroyed.

Looking for a key takes a worker as long as two searches of the token, a second with 10,000 keys in SoftHSM. So one worker looks
at a time, the spares first, and one that is given jobs is set aside meanwhile if there is another one. The first one waits until
those that have jobs have used the changed token once, and takes no processor from them. A worker that was starting when a key was
made may have missed it, and looks for it when it is ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from hsmd.daemon.front.tokens.token_changes import TokenChanges
from hsmd.daemon.front.tokens.worker_channel import WorkerChannel
from hsmd.daemon.front.tokens.worker_rotation import WorkerRotation
from hsmd.daemon.ipc.worker_messages import AnyNotice, Forget, LookUp, encode as encode_notice
from hsmd.protocol.frames import Kind, encode

KEPT_S = 600.0
"""For this long a new key is remembered for workers that are starting."""
MAX_KEPT = 10_000
MAX_IN_NOTICE = 500
"""Keys in one notice: it must fit into a frame, and its answer too."""


class KeyAnnouncements:
    """What each ready worker has still to look for. Call everything from the event loop."""

    def __init__(self, rotation: WorkerRotation, changes: TokenChanges, clock: Callable[[], float]) -> None:
        self._rotation = rotation
        self._changes = changes
        self._clock = clock
        self._waiting: dict[WorkerChannel, dict[str, None]] = {}
        self._looking: WorkerChannel | None = None
        self._asked: list[str] = []
        self._recent: dict[str, float] = {}
        self._told: dict[str, tuple[set[WorkerChannel], asyncio.Event]] = {}

    def made(self, keys: Iterable[str]) -> None:
        """These keys (digests in hex) are new in the token."""
        now = self._clock()
        for key in keys:
            self._recent.pop(key, None)
            self._recent[key] = now
            workers = self._rotation.ready
            _, told = self._told.pop(key, (set(), asyncio.Event()))
            if workers:
                self._told[key] = (set(workers), told)
            else:
                told.set()
            for worker in workers:
                self._waiting.setdefault(worker, {})[key] = None
        self._forget_old(now)
        self.proceed()

    def knows(self, key: str) -> bool:
        """Whether this key was announced not long ago."""
        return key in self._recent

    async def until_told(self, key: str) -> None:
        """Return when each worker that was ready when the key was announced has looked for it, or was lost."""
        if key in self._told:
            await self._told[key][1].wait()

    def destroyed(self, key: str) -> None:
        """This key was destroyed."""
        self._recent.pop(key, None)
        for worker in self._rotation.ready:
            _send(worker, Forget([key]))

    def ready(self, worker: WorkerChannel) -> None:
        """A worker is ready; what was made since it was started it may not have seen."""
        missed = {key: None for key, made_at in self._recent.items() if made_at >= worker.attached_at}
        if missed:
            self._waiting.setdefault(worker, {}).update(missed)
            self.proceed()

    def looked_up(self, worker: WorkerChannel) -> bool:
        """A worker has done what it was asked; return false if it was not asked."""
        if worker is not self._looking:
            return False
        asked = self._asked
        worker.keys += len(asked)
        self._end(worker)
        self._note_told(worker, asked)
        self.proceed()
        return True

    def lost(self, worker: WorkerChannel) -> None:
        """A worker was given up."""
        keys = [*self._waiting.pop(worker, {})]
        if worker is self._looking:
            keys += self._asked
            self._end(worker)
        self._note_told(worker, keys)
        self.proceed()

    def _forget_old(self, now: float) -> None:
        while self._recent:
            oldest = next(iter(self._recent))
            if now - self._recent[oldest] <= KEPT_S and len(self._recent) <= MAX_KEPT:
                return
            del self._recent[oldest]

    def proceed(self) -> None:
        """Have another worker look, if none does, and unless signatures wait for workers that the change has slowed down."""
        if self._looking is not None or not self._waiting:
            return
        if not self._changes.read_again_by_all(self._rotation.working):
            return
        worker = min(self._waiting, key=self._preference)
        waiting = self._waiting[worker]
        self._asked = list(waiting)[:MAX_IN_NOTICE]
        for key in self._asked:
            del waiting[key]
        if not waiting:
            del self._waiting[worker]
        self._looking = worker
        self._rotation.set_aside(worker)
        worker.begin_look_up(self._clock())
        _send(worker, LookUp(self._asked))

    def _preference(self, worker: WorkerChannel) -> tuple[bool, int]:
        """Spares first, then the one with the fewest jobs."""
        return worker in self._rotation.working, len(worker.jobs)

    def _end(self, worker: WorkerChannel) -> None:
        self._looking, self._asked = None, []
        worker.looking_up = False
        self._rotation.take_back(worker)

    def _note_told(self, worker: WorkerChannel, keys: Iterable[str]) -> None:
        for key in keys:
            workers, told = self._told.get(key, (set(), None))
            workers.discard(worker)
            if told is not None and not workers:
                del self._told[key]
                told.set()


def _send(worker: WorkerChannel, notice: AnyNotice) -> None:
    worker.send(encode(Kind.EVENT, 0, encode_notice(notice)))
