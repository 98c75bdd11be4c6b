"""The store: opens the database, and runs transactions on it that raise only errors of hsmd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hsmd.daemon.store import portable
from hsmd.daemon.store.contents import Contents, Difference, Standing
from hsmd.daemon.store.difference_rows import Pause, no_pause
from hsmd.daemon.store.engine import begin_immediately, open_engine, parse_url, rows_written, translated
from hsmd.daemon.store.migrate import is_old, migrate, newest_revision, revision_of
from hsmd.daemon.store.transaction import Transaction
from hsmd.errors import Conflict, StoreFailure

R = TypeVar("R")

_DUPLICATE = "another request created the same entry at the same time; check it and try again"


class Store:
    """Keys, certificates, clients, user CAs, grants and what daemons share about tokens and audit logs.

    Thread-safe; each transaction runs in the caller's thread. Unknown names raise NotFound, duplicates Conflict, an
    unreachable, unmigrated or damaged database StoreFailure. Writes run one after the other, across all daemons that
    share the database.
    """

    def __init__(self, url: str) -> None:
        """`url` is `sqlite:////path/of/file` or `postgresql+psycopg://...`. Connects on first use.

        Raises ConfigurationError, which does not repeat the URL.
        """
        self._url = parse_url(url)
        self._engine = open_engine(self._url)
        postgresql = self._engine.dialect.name == "postgresql"
        reading = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if postgresql else {}
        self._reader = self._engine.execution_options(**reading)

    def __repr__(self) -> str:
        return f"<Store {self._url.drivername}>"

    def migrate(self) -> None:
        """Upgrade the schema to this release's; does nothing if it is current."""
        with translated(self._url):
            migrate(self._engine, self._path)

    def needs_upgrade(self) -> bool:
        """Whether `migrate` would change the database. Raises StoreFailure, also if it is of a newer release."""
        with translated(self._url):
            return is_old(self._engine)

    @property
    def _path(self) -> Path | None:
        return None if self._engine.dialect.name == "postgresql" else Path(str(self._url.database))

    def close(self) -> None:
        """Close all connections; a later use of the store reconnects."""
        self._engine.dispose()

    # --- transactions ---

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read-only transaction, which sees one consistent state."""
        with translated(self._url), self._reader.connect() as connection, connection.begin():
            yield Transaction(connection)

    @contextmanager
    def write(self, *, versioned: bool = True) -> Iterator[Transaction]:
        """A transaction that is committed at the end of the block; an exception rolls it back.

        Changes `version`, unless `versioned` is false: for rows that are not part of `Contents`, such as those of the
        ledger. Such a write waits for others only where both lock the same row (lock_order.py). A versioned one that writes
        no row is rolled back, so that no daemon reads its contents again for nothing.
        """
        with (
            translated(self._url, conflict=_DUPLICATE),
            begin_immediately(self._engine.connect()) as connection,
            connection.begin() as commit,
        ):
            transaction = Transaction(connection)
            transaction.begin(versioned=versioned)
            with rows_written(connection) as written:
                yield transaction
                transaction.finish()
            if versioned and not written():
                commit.rollback()
            else:
                transaction.prune()

    def query(self, action: Callable[[Transaction], R]) -> R:
        """Run an action in a read transaction: `read` as one call, for `asyncio.to_thread`."""
        with self.read() as transaction:
            return action(transaction)

    def change(self, action: Callable[[Transaction], R], *, versioned: bool = True) -> R:
        """Run an action in a write transaction: `write` as one call, for `asyncio.to_thread`."""
        with self.write(versioned=versioned) as transaction:
            return action(transaction)

    def version(self) -> int:
        """A number that each write of the contents changes, of every daemon that shares the store."""
        return self.query(Transaction.version)

    def load(self) -> Contents:
        """Everything that decisions need, from one consistent read."""
        return self.query(Transaction.contents)

    def difference(self, known: Standing | None, pause: Pause = no_pause) -> Difference:
        """What is different from the contents at `known`, from one consistent read (Transaction.difference)."""
        return self.query(lambda tx: tx.difference(known, pause))

    # --- backup ---

    def export(self) -> bytes:
        """Every row, from one consistent read, in a format that either database can be filled from (portable.py)."""
        with self.read() as transaction:
            return portable.export(transaction.connection, revision_of(transaction.connection) or "")

    def restore(self, document: bytes) -> None:
        """Fill an empty database from an export, and upgrade it to this release; begins an epoch of the ledger.

        Limited grants refuse until an operator states their limits anew, and keys in the vault until their owners do: their
        uses since the backup are not known.
        Raises StoreFailure for a damaged document or one of a newer release, Conflict if the database holds a store.
        """
        content = portable.decode(document)
        if content.revision > newest_revision():
            raise StoreFailure("the backup was made by a newer release of hsmd; install that release")
        with translated(self._url):
            migrate(self._engine, self._path, content.revision)
            with self._engine.connect() as connection, connection.begin():
                if revision_of(connection) != content.revision:
                    raise Conflict("the store is in use; restore into an empty database")
                portable.fill(connection, content)
        self.migrate()
