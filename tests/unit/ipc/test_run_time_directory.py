"""The run-time directory of workers that another user starts."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from hsmd.daemon.ipc import run_time_directory

USER = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_time_directory, "_PARENT", tmp_path / "workers")
    return tmp_path / "workers"


def test_the_directory_is_private_and_stays(parent: Path) -> None:
    found = Path(run_time_directory.for_user(USER))
    assert found == parent / USER == Path(run_time_directory.for_user(USER))
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert stat.S_IMODE(parent.stat().st_mode) == 0o755


def test_a_parent_that_others_can_write_to_is_not_used(parent: Path) -> None:
    parent.mkdir()
    parent.chmod(0o777)
    assert run_time_directory.for_user(USER) == ""


def test_a_link_is_not_followed(parent: Path, tmp_path: Path) -> None:
    parent.mkdir(mode=0o755)
    (tmp_path / "elsewhere").mkdir()
    (parent / USER).symlink_to(tmp_path / "elsewhere")
    assert run_time_directory.for_user(USER) == ""
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_process_that_may_not_make_it_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_time_directory, "_PARENT", Path("/proc/workers"))
    assert run_time_directory.for_user(USER) == ""
