"""Brings a database to the newest schema; when several daemons start at once, one after the other."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(engine: Engine, sqlite_path: Path | None, target: str = "") -> None:
    """Run all revisions that are missing, up to `target` or the newest, in one transaction: all or nothing.

    Raises StoreFailure if the schema belongs to a newer release.
    """
    if sqlite_path is None:
        _upgrade_if_old(engine, target)
        return
    with _alone(sqlite_path.absolute().parent):
        _prepare_file(sqlite_path)
        _use_write_ahead_log(engine)
        _upgrade_if_old(engine, target)


def _upgrade_if_old(engine: Engine, target: str) -> None:
    if _revision(engine) == (target or newest_revision()):
        return
    from hsmd.daemon.store.upgrade import upgrade

    upgrade(engine, _SCRIPTS, target or "head")


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return revision_of(connection)


def revision_of(connection: Connection) -> str | None:
    """The revision of the schema; None if there is none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def newest_revision() -> str:
    """What this release brings a database to. A revision is called like its file, up to the underscore; they are numbered."""
    return max(path.name.partition("_")[0] for path in (_SCRIPTS / "versions").glob("[0-9]*.py"))


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
