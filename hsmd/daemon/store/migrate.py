"""Brings a database to the newest schema; when several daemons start at once, one after the other."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from hsmd.daemon.store.engine import begin_immediately
from hsmd.errors import StoreFailure

_ADVISORY_LOCK = 0x68736D64
"""PostgreSQL's name for our migration lock: "hsmd" in ASCII."""
_LOCK_TIMEOUT_S = 60
_alembic = threading.Lock()
"""Alembic keeps the revision it runs in module globals."""
_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(engine: Engine, sqlite_path: Path | None) -> None:
    """Run all revisions that are missing, in one transaction: all or nothing.

    Raises StoreFailure if the schema belongs to a newer release.
    """
    if sqlite_path is None:
        _upgrade(engine)
        return
    with _alone(sqlite_path.absolute().parent):
        _prepare_file(sqlite_path)
        _use_write_ahead_log(engine)
        _upgrade(engine)


def _upgrade(engine: Engine) -> None:
    with begin_immediately(engine.connect()) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            _lock_postgresql(connection)
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
        _refuse_newer(connection, ScriptDirectory.from_config(config))
        with _alembic:
            command.upgrade(config, "head")


def _lock_postgresql(connection: Connection) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{2 * _LOCK_TIMEOUT_S}s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})


def _refuse_newer(connection: Connection, scripts: ScriptDirectory) -> None:
    known = {revision.revision for revision in scripts.walk_revisions()}
    for present in MigrationContext.configure(connection).get_current_heads():
        if present not in known:
            raise StoreFailure(
                "the store was made by a newer release of hsmd; install that release or restore a backup",
                detail=f"schema revision {present}",
            )


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the lock on the database's directory.

    A lock on the file itself would not do: closing its descriptor would drop SQLite's own locks (as POSIX has
    it). And the switch to the write-ahead log fails at once, without waiting, when two processes try it.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _prepare_file(path: Path) -> None:
    """Make the file for its owner only; SQLite gives its companion files (-wal, -shm) the same mode."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _use_write_ahead_log(engine: Engine) -> None:
    """Readers and the writer do not wait for each other; the setting stays with the file."""
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("PRAGMA journal_mode = WAL").close()
    finally:
        raw.close()
