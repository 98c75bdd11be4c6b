"""The start lock: held by one process at a time, one lock for each token, and no links followed."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from hsmd.errors import Unavailable
from hsmd.pkcs11 import start_lock
from hsmd.pkcs11.settings import TokenSettings
from hsmd.pkcs11.start_lock import StartLock, lock_path


def hold(path: str, held: object, release: object) -> None:
    with StartLock(Path(path)):
        held.set()  # type: ignore[attr-defined]
        release.wait(10)  # type: ignore[attr-defined]


def test_one_process_at_a_time_holds_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    path = tmp_path / "start.lock"
    other = context.Process(target=hold, args=(str(path), held, release))
    other.start()
    assert held.wait(20)
    monkeypatch.setattr(start_lock, "LOCK_WAIT_S", 0.1)
    with pytest.raises(Unavailable), StartLock(path):
        pass
    release.set()
    other.join(10)
    with StartLock(path) as lock:
        assert lock.note == ""
        lock.write_note("a version")
    with StartLock(path) as lock:
        assert lock.note == "a version"
        lock.write_note("")
        assert lock.note == ""


def test_the_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "start.lock").symlink_to(tmp_path / "target")
    with pytest.raises(Unavailable), StartLock(tmp_path / "start.lock"):
        pass


def test_each_token_has_its_own_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    one = lock_path(TokenSettings(module="m", label="one"))
    assert one.parent == tmp_path
    assert one == lock_path(TokenSettings(module="m", label="one", read_write=True, cleared=True))
    assert one != lock_path(TokenSettings(module="m", label="two"))
