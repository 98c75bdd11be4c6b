"""The progress page that a worker shares with the front."""

from __future__ import annotations

import fcntl
import os

import pytest

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


@pytest.mark.parametrize("size", [0, 8, 1 << 20])
def test_a_worker_cannot_change_the_size_of_the_page(size: int) -> None:
    """Reading what was cut off would end the front by SIGBUS."""
    fd = ProgressPage.create()
    front = ProgressPage(fd)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    front.fence()
    assert front.counters[ProgressPage.FENCE] == 1
    front.close()
    os.close(fd)


def test_a_page_of_an_earlier_launcher_counts_no_searches() -> None:
    """It runs on while the software of its workers is upgraded."""
    fd = os.memfd_create("page")
    os.ftruncate(fd, 24)
    page = ProgressPage(fd)
    with page.slice_of_search():
        assert page.searches == 0
    page.close()
    os.close(fd)


def test_a_slice_of_a_search_is_seen() -> None:
    fd = ProgressPage.create()
    worker, front = ProgressPage(fd), ProgressPage(fd)
    with worker.slice_of_search():
        assert front.searches == 1
    assert front.searches == 2
    worker.close()
    front.close()
    os.close(fd)
