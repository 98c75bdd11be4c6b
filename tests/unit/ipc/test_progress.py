"""The progress page that a worker shares with the front."""

from __future__ import annotations

import os

from hsmd.daemon.ipc.progress import ProgressPage


def test_both_ends_see_the_same_page() -> None:
    fd = ProgressPage.create()
    worker, front = ProgressPage(fd), ProgressPage(fd)
    os.close(fd)
    worker.counters[ProgressPage.STARTED] = 2**40
    worker.counters[ProgressPage.FINISHED] = 7
    assert (front.started, front.finished) == (2**40, 7)
    assert worker.counters[ProgressPage.FENCE] == 0
    front.fence()
    assert worker.counters[ProgressPage.FENCE] == 1
    worker.close()
    front.close()
