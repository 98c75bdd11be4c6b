"""Atomic files: written completely or not at all, with their mode, and without leftovers."""

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


def test_a_name_may_have_the_maximum_length(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    atomic_file.replace(path, "content")
    assert path.read_text() == "content"
