"""Engines for SQLite and PostgreSQL, and the translation of their errors into texts without passwords."""

from __future__ import annotations

import os
import random
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any, cast
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from hsmd.errors import ConfigurationError, Conflict, StoreFailure

CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 20
LOCK_RETRIES_S = (0.001, 0.005)
POOL_SIZE = 4
_HELP = "use sqlite:////var/lib/hsmd/store.db or postgresql+psycopg://user:password@host/database"


def parse_url(text: str) -> URL:
    """The URL of a store. Raises ConfigurationError without the text, which may contain a password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError("store.url", [f"not a database URL; {_HELP}"]) from None
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername == "postgresql+psycopg":
        return url
    if url.drivername != "sqlite":
        raise ConfigurationError("store.url", [f"{url.drivername} is not supported; {_HELP}"])
    if url.database in (None, "", ":memory:") or url.query:
        raise ConfigurationError("store.url", [f"SQLite takes the path of a file and nothing else; {_HELP}"])
    return url


def open_engine(url: URL) -> Engine:
    """An engine for the URL; connects on first use."""
    return _sqlite(str(url.database)) if url.drivername == "sqlite" else _postgresql(url)


def begin_immediately(connection: Connection) -> Connection:
    """Make transactions of this connection take the write lock at their beginning on SQLite; no effect on PostgreSQL."""
    return connection.execution_options(hsmd_immediate=True)


@contextmanager
def rows_written(connection: Connection) -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether a statement on this connection has written a row since.

    A statement in plain SQL, one that returns rows (SQLite counts them only once they are read), and a driver that does not
    tell the number of rows, count as such a statement.
    """
    found = False

    def executed(conn: Any, cursor: Any, statement: Any, parameters: Any, context: Any, many: Any) -> None:
        nonlocal found
        invoked = context.invoked_statement
        reads = invoked is not None and invoked.is_select
        found = found or (not reads and (cursor.description is not None or cursor.rowcount != 0))

    event.listen(connection, "after_cursor_execute", executed)
    try:
        yield lambda: found
    finally:
        event.remove(connection, "after_cursor_execute", executed)


def _sqlite(path: str) -> Engine:
    # mode=rw: only migrate() creates the file, with the required permissions.
    address = f"file:{quote(os.path.abspath(path))}?mode=rw"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            address, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=POOL_SIZE,
        pool_timeout=LOCK_TIMEOUT_S,
        hide_parameters=True,
    )
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _begin_sqlite(connection: Connection) -> None:
    """Begin explicitly: sqlite3 would begin only before the first write, and reads would be inconsistent."""
    if connection.get_execution_options().get("hsmd_immediate", False):
        _take_write_lock(cast("sqlite3.Connection", connection.connection.dbapi_connection))
    else:
        connection.exec_driver_sql("BEGIN")


def _take_write_lock(connection: sqlite3.Connection) -> None:
    """Begin with the write lock. Raises sqlite3.OperationalError if others hold it for LOCK_TIMEOUT_S.

    SQLite keeps no queue. Its busy handler comes back only each 0.1 s once it has waited for 0.3 s, and a writer that does so
    is overtaken for seconds by others that write without a pause. Short random pauses find the lock free soon.
    """
    patience = monotonic() + LOCK_TIMEOUT_S
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                primary = error.sqlite_errorcode & 0xFF  # SQLITE_BUSY_RECOVERY passes as well
                if primary != sqlite3.SQLITE_BUSY or monotonic() > patience:
                    raise
            sleep(random.uniform(*LOCK_RETRIES_S))
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(LOCK_TIMEOUT_S * 1000)}")


def _postgresql(url: URL) -> Engine:
    settings: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "hsmd",
        "tcp_user_timeout": STATEMENT_TIMEOUT_S * 1000,
        "options": (
            f"-c lock_timeout={LOCK_TIMEOUT_S}s -c statement_timeout={STATEMENT_TIMEOUT_S}s"
            f" -c idle_in_transaction_session_timeout={STATEMENT_TIMEOUT_S}s"
        ),
    }
    chosen_by_operator = set(url.query)
    if fault := _missing_driver():
        raise ConfigurationError("store.url", [fault])
    return create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_size=POOL_SIZE,
        pool_timeout=LOCK_TIMEOUT_S,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={name: value for name, value in settings.items() if name not in chosen_by_operator},
    )


def _missing_driver() -> str:
    """Why PostgreSQL cannot be used here; empty if it can."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:  # also if libpq is missing
        reason = str(error).partition("\n")[0]
        return f"PostgreSQL cannot be used: {reason}; run: {sys.prefix}/bin/pip install 'hsmd[daemon,postgresql]'"
    return ""


@contextmanager
def translated(url: URL, conflict: str = "") -> Iterator[None]:
    """Translate the database's errors into errors of hsmd.

    A violated constraint becomes Conflict with the text `conflict` (if given), every other error StoreFailure whose
    `detail` holds the first line of the driver's message, without statement, values or password.
    """
    try:
        yield
    except IntegrityError as error:
        if not conflict:
            raise StoreFailure(detail=_describe(error, url)) from None
        raise Conflict(conflict) from None
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise StoreFailure(detail=_describe(error, url)) from None
    except OSError as error:
        raise StoreFailure(detail=f"{type(error).__name__}: {os.strerror(error.errno or 0)}") from None


def _describe(error: Exception, url: URL) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    first_line = str(cause).partition("\n")[0][:200]
    if url.password:
        first_line = first_line.replace(str(url.password), "***")
    return f"{type(cause).__name__}: {first_line}"
