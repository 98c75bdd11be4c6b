"""Upgrade of a database to the newest schema; daemons that start at once upgrade one after the other."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from hsmd.errors import StoreFailure

_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(engine: Engine, sqlite_path: Path | None, target: str = "") -> None:
    """Run all missing revisions, up to `target` or the newest, in one transaction.

    Raises StoreFailure if the schema belongs to a newer release.
    """
    if sqlite_path is None:
        _upgrade_if_old(engine, target)
        return
    with _directory_lock(sqlite_path.absolute().parent):
        _prepare_file(sqlite_path)
        _use_write_ahead_log(engine)
        _upgrade_if_old(engine, target)


def _upgrade_if_old(engine: Engine, target: str) -> None:
    if _revision(engine) == (target or newest_revision()):
        return
    from hsmd.daemon.store.upgrade import upgrade

    upgrade(engine, _SCRIPTS, target or "head")


def is_old(engine: Engine) -> bool:
    """Whether `migrate` would run revisions. Raises StoreFailure if the schema belongs to a newer release."""
    found = _revision(engine)
    if found is not None and found > newest_revision():
        raise StoreFailure(
            "the store belongs to a newer release of hsmd; install that release or restore a backup",
            detail=f"schema revision {found}",
        )
    return found != newest_revision()


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return revision_of(connection)


def revision_of(connection: Connection) -> str | None:
    """The revision of the schema; None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def newest_revision() -> str:
    """The revision of this release: the highest of the numbers that the files of revisions start with."""
    return max(path.name.partition("_")[0] for path in (_SCRIPTS / "versions").glob("[0-9]*.py"))


@contextmanager
def _directory_lock(directory: Path) -> Iterator[None]:
    """Hold a lock on the database's directory.

    SQLite does not wait for another process that switches to the write-ahead log: the switch fails at once. A lock on
    the database file is no alternative, because closing its descriptor releases SQLite's own locks (POSIX, fcntl).
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _prepare_file(path: Path) -> None:
    """Create the file with mode 0600; SQLite creates its companion files (-wal, -shm) with the same mode."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _use_write_ahead_log(engine: Engine) -> None:
    """Let readers and the writer not wait for each other; the setting is stored in the file."""
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("PRAGMA journal_mode = WAL").close()
    finally:
        raw.close()
