"""Migrations: of an empty database, repeated, by several daemons at once, and against a newer release."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

import hsmd
from hsmd.daemon.store import KeyRecord, Store
from hsmd.daemon.store.tables import metadata
from hsmd.errors import StoreFailure

MIGRATE_ON_COMMAND = """
import sys
from hsmd.daemon.store import Store
store = Store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
store.migrate()
print(store.version(), flush=True)
"""


def test_twice_changes_nothing(empty_url: str, make_key: Callable[..., KeyRecord]) -> None:
    store = Store(empty_url)
    store.migrate()
    store.change(lambda tx: tx.keys.add(make_key("site")))
    before = store.load()
    store.migrate()
    again = Store(empty_url)
    again.migrate()
    assert store.load() == before == again.load()
    store.close()
    again.close()


def test_four_daemons_at_once(empty_url: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(hsmd.__file__).parents[1])}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE_ON_COMMAND, empty_url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path,
        )
        for _ in range(4)
    ]  # fmt: skip
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        results = [child.communicate(timeout=60) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert results == [("1\n", "")] * 4


def test_sqlite_migrations_wait_for_each_other(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/store.db")
    with ThreadPoolExecutor(1) as pool:
        other = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(other, fcntl.LOCK_EX)
        migrating = pool.submit(store.migrate)
        with pytest.raises(TimeoutError):
            migrating.result(0.3)
        assert list(tmp_path.iterdir()) == []
        os.close(other)
        migrating.result(30)
    assert store.version() == 1
    store.close()


def test_the_revisions_match_the_tables(store: Store, empty_url: str) -> None:
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_the_schema_of_a_newer_release_is_left_alone(store: Store, empty_url: str) -> None:
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreFailure, match="newer release"):
        store.migrate()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    engine.dispose()


def test_a_failed_migration_leaves_nothing_behind(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(empty_url)
    monkeypatch.setattr(op, "create_index", _power_cut)
    with pytest.raises(RuntimeError, match="power cut"):
        store.migrate()
    monkeypatch.undo()
    store.migrate()
    assert store.version() == 1
    store.close()


def _power_cut(*_: object, **__: object) -> None:
    raise RuntimeError("power cut")


def test_the_file_is_for_its_owner_only(tmp_path: Path, make_key: Callable[..., KeyRecord]) -> None:
    old_mask = os.umask(0)
    try:
        store = Store(f"sqlite:///{tmp_path}/store.db")
        store.migrate()
        store.change(lambda tx: tx.keys.add(make_key("site")))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(old_mask)
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
    store.close()


def test_a_file_that_others_can_read_gets_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch()
    path.chmod(0o644)
    store = Store(f"sqlite:///{path}")
    store.migrate()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store.close()


def test_paths_with_awkward_characters(tmp_path: Path) -> None:
    directory = tmp_path / "a b?mode=memory%20#x"
    directory.mkdir()
    store = Store("sqlite:///" + str(directory / "store.db").replace("%", "%25").replace("?", "%3F"))
    try:
        store.migrate()
    finally:
        store.close()
    assert (directory / "store.db").exists()


def test_sqlite_is_set_up_for_safety(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.migrate()
    with store._engine.connect() as connection:
        settings = {
            name: connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "foreign_keys", "synchronous")
        }
    assert settings == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2}
    store.close()


def test_a_schema_that_is_current_needs_no_migration_machinery(empty_url: str, tmp_path: Path) -> None:
    """Alembic takes a tenth of a second to load, which would delay the restart of a front process."""
    store = Store(empty_url)
    store.migrate()
    store.close()
    program = (
        "import sys; from hsmd.daemon.store import Store; "
        f"store = Store({empty_url!r}); store.migrate(); store.close(); print('alembic' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(hsmd.__file__).parents[1])}
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout == "False\n"
