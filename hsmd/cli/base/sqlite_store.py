"""The SQLite store of a new daemon: its files, and its first clients."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hsmd.cli.base.ssh_keys import PublicLine

if TYPE_CHECKING:
    from hsmd.protocol.roles import Role


@dataclass(frozen=True, slots=True)
class FirstClient:
    """A client that a new store has from the beginning."""

    name: str
    role: Role
    key: PublicLine


def create(database: Path, clients: Iterable[FirstClient]) -> None:
    """Create the store. Raises StoreFailure."""
    from hsmd.daemon.store import CredentialRecord, Store

    store = Store(f"sqlite:///{database}")
    try:
        store.migrate()
        for client in clients:
            credential = CredentialRecord(client.key.fingerprint, client.key.line)
            with store.write() as tx:
                tx.clients.add(client.name, frozenset({client.role}), datetime.now(UTC), credential)
    finally:
        store.close()


def remove_with(undo: ExitStack, database: Path) -> None:
    """Have `undo` remove the database with its companion files."""
    for suffix in ("", "-wal", "-shm"):
        undo.callback(database.with_name(database.name + suffix).unlink, missing_ok=True)
