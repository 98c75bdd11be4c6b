"""The front's end of one worker's socket: jobs out, their completions in, and how far the worker has got.

It never waits, and leaves every decision to the pool. What the socket does not take is buffered; the pool's window bounds it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable

from hsmd.daemon.front.tokens.jobs import Completion, Job, Status
from hsmd.daemon.ipc.progress import ProgressPage
from hsmd.daemon.ipc.worker_messages import Ready
from hsmd.errors import ErrorCode, ProtocolError, TokenFailure, Unavailable
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import (
    MAX_ANSWER_LENGTH,
    Frame,
    Kind,
    decode_error,
    encode_key_operation,
)

READ_BYTES = 262_144
SEARCH_LIMIT_S = 20.0
"""A call that searches the token may take this long: with 10,000 keys SoftHSM takes half a second on an idle processor."""
SETTLED_S = 5.0
"""A use of the token that ended this long after a change of it has taken the change into account."""


MANY_KEYS = 1_000
"""With fewer keys in the token, SoftHSM reads what it holds in 20 ms of CPU."""


class WorkerChannel:
    """One worker as the front sees it."""

    __slots__ = (
        "alone",
        "attached_at",
        "control",
        "decoder",
        "failed",
        "jobs",
        "keys",
        "looking_up",
        "loop",
        "lost",
        "moved_at",
        "pid",
        "probed_at",
        "probing",
        "progress",
        "read_at",
        "ready",
        "seen",
        "sent",
        "socket",
        "told_why",
        "unsent",
        "used_at",
    )

    def __init__(
        self, worker_socket: socket.socket, progress_fd: int, pid: int, control: bool, now: float
    ) -> None:
        """Take over the socket and close `progress_fd`. Raises OSError or ValueError if that is no progress page."""
        try:
            self.progress = ProgressPage(progress_fd)
        finally:
            os.close(progress_fd)
        worker_socket.setblocking(False)
        self.socket = worker_socket
        self.pid = pid
        self.control = control
        self.decoder = FrameDecoder(MAX_ANSWER_LENGTH)
        self.jobs: dict[int, Job] = {}
        """Outstanding jobs by request id, in the order they were sent."""
        self.sent = 0
        self.unsent = b""
        self.ready: Ready | None = None
        self.keys = 0
        """How many keys it serves, without regard to those that were destroyed."""
        self.failed = False
        """It reported that it cannot get ready, or took too long."""
        self.told_why = False
        """It reported why it cannot get ready: that it ends then is no loss of its own."""
        self.lost = False
        self.alone = False
        """It has, or is reserved for, a job that must have a worker to itself."""
        self.attached_at = self.moved_at = self.probed_at = self.read_at = now
        self.used_at = now
        """When the last use of the token that has ended was noticed."""
        self.probing = False
        """It was asked to probe the token and has not answered yet."""
        self.looking_up = False
        """It was asked to look for new keys and has not answered yet."""
        self.seen = (0, 0, 0)
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()

    @property
    def has_alone_job(self) -> bool:
        """Whether it has a job that must have a worker to itself."""
        return any(job.alone for job in self.jobs.values())

    def watch(self, readable: Callable[[WorkerChannel], None]) -> None:
        """Call `readable(self)` whenever there is something to read."""
        self.loop.add_reader(self.socket.fileno(), readable, self)

    def receive(self) -> list[Frame] | None:
        """The frames that have arrived; None if the worker has gone. Raises ProtocolError."""
        try:
            data = self.socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        return self.decoder.feed(data) if data else None

    def take_answers(
        self, frames: Iterable[Frame], done: list[Completion], event: Callable[[WorkerChannel, bytes], None]
    ) -> None:
        """Add the completions that answer frames bring to `done`, and pass events on.

        Raises ProtocolError for a frame that no worker sends; what came before it is in `done`.
        """
        for kind, request_id, body in frames:
            if kind == Kind.EVENT:
                event(self, body)
                continue
            job = self.jobs.get(request_id)
            if job is None:
                raise ProtocolError(f"an answer to request {request_id}, which is not open")
            done.append(_completion_of(job, kind, body))
            del self.jobs[request_id]

    def give_up_jobs(self, started: int) -> list[Completion]:
        """Completions of the jobs of a worker that was lost; it has begun those up to number `started`."""
        done = [_completion_of_lost(job, started) for job in self.jobs.values()]
        self.jobs.clear()
        return done

    def send_jobs(self, jobs: Iterable[tuple[int, Job]], now: float) -> None:
        """Send (request id, job) pairs in one write."""
        if not self.jobs:
            self.moved_at = self.read_at = now
        out = []
        for request_id, job in jobs:
            self.sent += 1
            job.number = self.sent
            job.queued = False
            self.jobs[request_id] = job
            purpose, scheme, key, data = job.body
            left_ms = min(60_000, int((job.deadline - now) * 1000) + 1)
            out.append(encode_key_operation(request_id, left_ms, purpose, scheme, key, data))
        self.send(b"".join(out))

    def send(self, data: bytes) -> None:
        """Write; what the socket does not take now is written when it does."""
        if self.unsent:
            self.unsent += data
            return
        self.unsent = data
        self._write()

    @property
    def busy(self) -> bool:
        """Whether it is expected to make progress."""
        return bool(self.jobs) or self.probing or self.looking_up or self.ready is None

    def begin_look_up(self, now: float) -> None:
        """It is asked to look for new keys."""
        if not self.busy:
            self.moved_at = now
        self.looking_up = True

    def moved(self, now: float) -> None:
        """Note whether the worker has made progress since the last call."""
        seen = (self.progress.started, self.progress.finished, self.progress.searches)
        if seen[1] != self.seen[1] or seen[2] // 2 != self.seen[2] // 2:
            self.used_at = now
        if seen != self.seen or not self.busy:
            self.seen = seen
            self.moved_at = now

    def may_read_again(self, changed_at: float) -> bool:
        """Whether the use of the token that goes on may be its first one after a change, for which SoftHSM reads all it holds."""
        return self.keys >= MANY_KEYS and self.used_at <= changed_at + SETTLED_S

    def stalled(self, now: float, stall_s: float, changed_at: float) -> bool:
        """Whether it has made no progress for so long at the last call of `moved`, or for `SEARCH_LIMIT_S` where the token has
        to read all it holds: in a search, and at the first use after a change, the last of which was at `changed_at`."""
        reading = self.seen[2] % 2 == 1 or self.may_read_again(changed_at)
        return self.busy and now - self.moved_at >= (max(stall_s, SEARCH_LIMIT_S) if reading else stall_s)

    def close(self) -> None:
        """Give the worker up: it begins no further job, and ends when it sees the socket close."""
        self.lost = True
        self.progress.fence()
        self.loop.remove_reader(self.socket.fileno())
        self.loop.remove_writer(self.socket.fileno())
        self.socket.close()

    def _write(self) -> None:
        try:
            taken = self.socket.send(self.unsent)
        except (BlockingIOError, InterruptedError):
            taken = 0
        except OSError:
            self.unsent = b""  # the next read reports that the worker has gone
            return
        rest = self.unsent[taken:]
        if rest and not self.lost:
            self.loop.add_writer(self.socket.fileno(), self._write)
        elif not rest:
            self.loop.remove_writer(self.socket.fileno())
        self.unsent = rest


def _completion_of(job: Job, kind: int, body: bytes) -> Completion:
    """What a worker's answer frame means. Raises ProtocolError for a frame that is no answer."""
    if kind == Kind.RESULT:
        return Completion(job, Status.LATE if job.expired else Status.ANSWERED, body, None)
    if kind != Kind.ERROR:
        raise ProtocolError(f"a frame of kind 0x{kind:02x} from a worker")
    error = decode_error(body)
    # With this code the worker skipped the job: by its own clock the deadline had passed.
    status = Status.NOT_PERFORMED if error.code == ErrorCode.DEADLINE else Status.FAILED
    return Completion(job, status, error=error)


def _completion_of_lost(job: Job, started: int) -> Completion:
    if job.number <= started:
        return Completion(
            job, Status.UNKNOWN, error=TokenFailure("the token worker was lost during this operation")
        )
    return Completion(job, Status.NOT_PERFORMED, error=Unavailable("the token worker was lost"))
