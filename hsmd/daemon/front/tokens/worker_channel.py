"""The front's end of one worker's socket: what was sent, what is outstanding, and how far the worker got.

A link does no waiting and takes no decision; the pool does. It writes without blocking and holds what the socket does not take,
which is bounded by the pool's window.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable

from hsmd.daemon.front.tokens.jobs import Job
from hsmd.daemon.ipc.progress import ProgressPage
from hsmd.daemon.ipc.worker_messages import Ready
from hsmd.protocol.frames import MAX_ANSWER_LENGTH, Frame, FrameDecoder, encode_key_operation

READ_BYTES = 262_144


class WorkerChannel:
    """One worker as the front sees it."""

    __slots__ = (
        "alone",
        "attached_at",
        "control",
        "decoder",
        "failed",
        "jobs",
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
        "unsent",
    )

    def __init__(
        self, worker_socket: socket.socket, progress_fd: int, pid: int, control: bool, now: float
    ) -> None:
        """Takes over the socket and closes `progress_fd`. Raises OSError or ValueError for a page that is none."""
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
        self.failed = False
        """It has said, or shown, that it cannot get ready."""
        self.lost = False
        self.alone = False
        """A job that wants to be alone is, or shall be, the only one here."""
        self.attached_at = self.moved_at = self.probed_at = self.read_at = now
        self.probing = False
        """It was asked to probe the token and has not answered."""
        self.seen = (0, 0)
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()

    @property
    def has_alone_job(self) -> bool:
        """Whether it holds a job that wants to be alone."""
        return any(job.alone for job in self.jobs.values())

    def watch(self, readable: Callable[[WorkerChannel], None]) -> None:
        """Call `readable` whenever there is something to read."""
        self.loop.add_reader(self.socket.fileno(), readable, self)

    def receive(self) -> list[Frame] | None:
        """The frames at hand; None when the worker has gone. Raises ProtocolError."""
        try:
            data = self.socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        return self.decoder.feed(data) if data else None

    def send_jobs(self, jobs: Iterable[tuple[int, Job]], now: float) -> None:
        """Hand over (request id, job) pairs in one write."""
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
        """Write, or keep what the socket does not take for when it does."""
        if self.unsent:
            self.unsent += data
            return
        self.unsent = data
        self._write()

    def moved(self, now: float) -> None:
        """Note whether the worker got on since the last look."""
        seen = (self.progress.started, self.progress.finished)
        if seen != self.seen or not (self.jobs or self.probing):
            self.seen = seen
            self.moved_at = now

    def close(self) -> None:
        """Give the worker up: it begins nothing more, and ends when it sees the socket close."""
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
            self.unsent = b""  # reading will tell that the worker has gone
            return
        rest = self.unsent[taken:]
        if rest and not self.lost:
            self.loop.add_writer(self.socket.fileno(), self._write)
        elif not rest:
            self.loop.remove_writer(self.socket.fileno())
        self.unsent = rest
