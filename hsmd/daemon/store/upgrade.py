"""Runs missing revisions with Alembic; imported only when there are some, because Alembic loads slowly."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from hsmd.daemon.store.engine import begin_immediately
from hsmd.errors import StoreFailure

_ADVISORY_LOCK = 0x68736D64
"""The advisory lock for migrations on PostgreSQL: "hsmd" in ASCII."""
_LOCK_TIMEOUT_S = 60
_alembic = threading.Lock()
"""Alembic keeps the current revision in module globals."""


def upgrade(engine: Engine, scripts: Path, target: str = "head") -> None:
    """Run all missing revisions in `scripts` up to `target`, in one transaction.

    Raises StoreFailure if the schema belongs to a newer release.
    """
    with begin_immediately(engine.connect()) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            _lock_postgresql(connection)
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        _refuse_newer(connection, ScriptDirectory.from_config(config))
        with _alembic:
            command.upgrade(config, target)


def _lock_postgresql(connection: Connection) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{2 * _LOCK_TIMEOUT_S}s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})


def _refuse_newer(connection: Connection, scripts: ScriptDirectory) -> None:
    known = {revision.revision for revision in scripts.walk_revisions()}
    for present in MigrationContext.configure(connection).get_current_heads():
        if present not in known:
            raise StoreFailure(
                "the store belongs to a newer release of hsmd; install that release or restore a backup",
                detail=f"schema revision {present}",
            )
