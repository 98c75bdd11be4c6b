"""Imports into one token take turns; those into others do not wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsmd.daemon.ipc.import_turn import import_turn
from hsmd.errors import Unavailable
from hsmd.pkcs11.settings import TokenSettings


def settings(path: Path, **changes: str) -> TokenSettings:
    return TokenSettings(name="t", module="m.so", label="l", lock_file=str(path), **changes)


def test_a_second_import_waits_for_the_first(tmp_path: Path) -> None:
    with import_turn(settings(tmp_path / "lock")):
        with (
            pytest.raises(Unavailable, match="try again later"),
            import_turn(settings(tmp_path / "lock"), wait_s=0.1),
        ):
            pytest.fail("two imports at once")
        with import_turn(settings(tmp_path / "other"), wait_s=0.1):
            pass
    with import_turn(settings(tmp_path / "lock"), wait_s=0.1):
        pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="set lock_file"), import_turn(settings(tmp_path / "none" / "lock")):
        pytest.fail("without a lock")
