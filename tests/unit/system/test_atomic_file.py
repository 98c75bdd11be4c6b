"""Atomic files: written completely or not at all, with their mode, and without leftovers."""

import errno
import os
import stat
from pathlib import Path

import pytest

from hsmd.system import atomic_file


def test_a_file_is_replaced_with_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_file.replace(path, "one")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("one", 0o600)
    atomic_file.replace(path, b"two", 0o644)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", 0o644)
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_is_not_overwritten_by_create(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_file.create(path, "one")
    with pytest.raises(FileExistsError):
        atomic_file.create(path, "two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_replacement_that_fails_leaves_the_old_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    atomic_file.replace(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        atomic_file.replace(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def fail_to_sync_directories(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """As with a directory without read permission (EACCES), a network file system (EINVAL) or a bad disk (EIO)."""
    sync = os.fsync

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))
        sync(descriptor)

    monkeypatch.setattr("os.fsync", fail)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EINVAL])
def test_files_are_written_to_directories_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    fail_to_sync_directories(monkeypatch, error)
    atomic_file.create(tmp_path / "created", "one")
    atomic_file.replace(tmp_path / "replaced", "two")
    assert [(tmp_path / name).read_text() for name in ("created", "replaced")] == ["one", "two"]


def test_a_file_whose_creation_fails_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_sync_directories(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        atomic_file.create(tmp_path / "key", "private")
    assert list(tmp_path.iterdir()) == []


def test_a_name_may_have_the_maximum_length(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    atomic_file.replace(path, "content")
    assert path.read_text() == "content"
