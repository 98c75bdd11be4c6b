"""The start lock: held by one process at a time, one lock for each token, and no links followed."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
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


@dataclass
class Places:
    """Where a user's lock may be, in a directory of the test; `home` is the account's home directory."""

    run: Path
    home: Path
    temporary: Path

    def of_the_lock(self) -> Path:
        return lock_path(TokenSettings(module="m", label="one")).parent


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Places:
    found = Places(tmp_path / "run", tmp_path / "home", tmp_path / "tmp")
    for directory in (found.run, found.home, found.temporary):
        directory.mkdir()
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(start_lock, "_RUN_TIME_DIRECTORIES", found.run)
    monkeypatch.setattr(start_lock, "_TEMPORARY", found.temporary)
    monkeypatch.setattr(start_lock, "_home", lambda: str(found.home))
    return found


def test_without_a_run_time_directory_the_lock_is_in_the_cache_of_the_user(places: Places) -> None:
    assert places.of_the_lock() == places.home / ".cache" / "hsmd"
    (places.run / str(os.getuid())).mkdir()
    assert places.of_the_lock() == places.run / str(os.getuid())


def test_a_directory_that_another_user_made_first_stops_no_worker(places: Places) -> None:
    """Another user can take the name in /tmp, but not the one in the home directory."""
    (places.temporary / f"hsmd-{os.getuid()}").mkdir(mode=0o777)
    (places.temporary / f"hsmd-{os.getuid()}").chmod(0o777)
    assert places.of_the_lock() == places.home / ".cache" / "hsmd"
    places.home.chmod(0o777)
    with pytest.raises(Unavailable, match="remove it, or set lock_file of the token"):
        places.of_the_lock()


@pytest.mark.parametrize("home", ["", "nonexistent", "/nonexistent"])
def test_a_user_without_a_home_has_the_lock_in_a_directory_of_its_own(
    places: Places, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setattr(start_lock, "_home", lambda: home)
    assert places.of_the_lock() == places.temporary / f"hsmd-{os.getuid()}"


def test_a_user_without_an_account_uses_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(start_lock.pwd, "getpwuid", unknown)
    monkeypatch.setenv("HOME", "/home/here")
    assert start_lock._home() == "/home/here"
