"""The front's parts in the process of a test, with real workers on a daemon's token, to drive what no request reaches yet."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hsmd.daemon.config import reader
from hsmd.daemon.front.composition import Parts
from hsmd.daemon.ipc.launcher_messages import WorkerStarted
from hsmd.daemon.ipc.spawn import spawn_worker
from tests.support.daemon import READY_S, Daemon
from tests.support.tokens import settings_of


class _NoLauncher:
    """Takes messages to a launcher; none of them needs one here."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


@asynccontextmanager
async def front_parts(daemon: Daemon) -> AsyncIterator[Parts]:
    """The parts of the front of a daemon that is not running, with a signing and a control worker that are ready."""
    parts = Parts(reader.load(daemon.config), _NoLauncher())  # type: ignore[arg-type]
    workers = []
    try:
        for control in (False, True):
            worker = spawn_worker(
                settings_of(daemon.token, control=control), environment=daemon.token.environment
            )
            workers.append(worker)
            started = WorkerStarted(token="main", pid=worker.pid, generation=1, control=control)
            parts.tokens.attach(started, [os.dup(worker.socket.fileno()), os.dup(worker.progress_fd)])
            worker.release()
        async with asyncio.timeout(READY_S):
            while {each.state for each in parts.tokens.pools["main"].status().workers} != {"ready"}:
                await asyncio.sleep(0.01)
        yield parts
    finally:
        await parts.tokens.close(1.0)
        await parts.audit.close()
        parts.tree.close()
        parts.store.close()
        for worker in workers:
            worker.process.kill()
            worker.process.wait(10)
