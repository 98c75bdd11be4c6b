"""All rows of a store as one JSON document, from which either database can be filled: the store in a backup.

Tables are read from the database's schema, not from this release's definitions: a document of an older release is
restored into a schema of its own revision first, which is then upgraded like any other store.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from sqlalchemy import Connection, MetaData, Table, func, inspect, select, text

from hsmd.errors import Conflict, StoreFailure
from hsmd.protocol.cursor import EPOCH_DIGITS

_REVISION_TABLE = "alembic_version"
_NOTES_TABLE = "changes"
"""Notes for daemons that have read this store before, written by triggers; a restored store has no such daemon."""
_BYTES, _TIME = "bytes", "time"
_ONE_ROW_TABLES = ("state", "ledger")
"""Tables whose row is created by the revision that makes the table."""
_KEYS_IN_USE = ("active", "replaced")
_TERMS_OF_ANOTHER_TIME = 2**32


class Document(msgspec.Struct, frozen=True):
    """The schema's revision, and the rows by table; bytes and times are objects with one member named after the type.

    `ids`: the highest row id that was given out, by table. Rows that were removed count, because their ids, for example
    of owners of keys, are never given out again.
    """

    revision: str
    tables: dict[str, list[dict[str, Any]]]
    ids: dict[str, Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]] = {}


def export(connection: Connection, revision: str) -> bytes:
    """All rows, as this transaction sees them."""
    found = _tables(connection)
    tables = {
        table.name: [
            {name: _portable(value) for name, value in row.items()}
            for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()
        ]
        for table in found
    }
    for row in tables["state"]:
        if "noted_after" in row:
            row["noted_after"] = row["version"]  # the notes are left out
    ids = {table.name: _highest_id(connection, table) for table in found if "id" in table.c}
    return msgspec.json.encode(
        Document(revision, tables, {name: highest for name, highest in ids.items() if highest})
    )


def decode(document: bytes) -> Document:
    """Parse the output of `export`. Raises StoreFailure for anything else."""
    try:
        return msgspec.json.decode(document, type=Document)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreFailure("the backup of the store is damaged", detail=str(error)) from None


def fill(connection: Connection, document: Document) -> None:
    """Insert the rows into an empty schema of the same revision. Raises Conflict if it holds rows."""
    tables = _tables(connection)
    for table in tables:
        held = connection.scalar(select(func.count()).select_from(table))
        if held and table.name not in _ONE_ROW_TABLES:
            raise Conflict("the store is in use; restore into an empty database")
    unknown = document.tables.keys() - {table.name for table in tables}
    if unknown:
        raise StoreFailure("the backup of the store is damaged", detail=f"unknown tables {sorted(unknown)}")
    content = _in_another_time(document.tables)
    for table in tables:
        rows = [
            {name: _native(connection, value) for name, value in row.items()}
            for row in content.get(table.name, [])
        ]
        if rows:
            connection.execute(table.delete())
            connection.execute(table.insert(), rows)
        _advance_ids(connection, table, document.ids.get(table.name, 0))
    _forget_notes(connection)


def _forget_notes(connection: Connection) -> None:
    """Forget what the triggers noted of these rows: it does not tell how a daemon's older contents differ from them."""
    if inspect(connection).has_table(_NOTES_TABLE):
        connection.execute(text(f"DELETE FROM {_NOTES_TABLE}"))
        connection.execute(text("UPDATE state SET noted_after = version"))


def _in_another_time(tables: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of a restored store, which gives out other events and terms than the old one did after the backup.

    A new epoch makes cursors of the old one known as such; leases end, with terms above those that were given out.
    Counts of uses are held, because those after the backup are not known, and so are versions of keys in the vault, and
    their owners' management keys, which may have been replaced since; uses and acquisitions that were counted just before
    it are in the old daemon's log.
    """
    if not tables.get("ledger"):
        return tables  # of a revision without a ledger; the one that makes it begins an epoch
    try:
        old = tables["ledger"][0]
        return {
            **tables,
            "ledger": [{**old, "epoch": secrets.token_hex(EPOCH_DIGITS // 2)}],
            "ledger_epochs": [*tables["ledger_epochs"], {"epoch": old["epoch"], "last": old["last"]}],
            "leases": [
                {**lease, "holder": "", "until": None, "term": lease["term"] + _TERMS_OF_ANOTHER_TIME}
                for lease in tables["leases"]
            ],
            "grant_uses": [{**count, "held": True} for count in tables.get("grant_uses", [])],
            "counted_uses": [],
            "vault_versions": [{**version, "held": True} for version in tables.get("vault_versions", [])],
            "vault_management_keys": [_held(key) for key in tables.get("vault_management_keys", [])],
            "vault_acquisitions": [],
        }
    except (KeyError, TypeError):
        raise StoreFailure("the backup of the store is damaged", detail="its ledger is malformed") from None


def _held(key: dict[str, Any]) -> dict[str, Any]:
    """A management key as it is after a restore. One of a revision without holds gets its hold when that is upgraded."""
    return {**key, "held": key["state"] in _KEYS_IN_USE} if "held" in key else key


def _tables(connection: Connection) -> list[Table]:
    """The tables of the store, in an order in which rows can be inserted."""
    found = MetaData()
    found.reflect(connection)
    left_out = (_REVISION_TABLE, _NOTES_TABLE, "sqlite_sequence")
    return [table for table in found.sorted_tables if table.name not in left_out]


def _highest_id(connection: Connection, table: Table) -> int:
    """The highest row id that was given out; 0 if the table gives out none."""
    if connection.dialect.name == "sqlite":
        given = text("SELECT seq FROM sqlite_sequence WHERE name = :table")
        return connection.scalar(given, {"table": table.name}) or 0
    sequence = _sequence(connection, table)
    return (
        (connection.scalar(text(f"SELECT last_value FROM {sequence} WHERE is_called")) or 0)
        if sequence
        else 0
    )


def _advance_ids(connection: Connection, table: Table, given: int) -> None:
    """Make the database assign new ids after the existing ones, and after those that were `given` out before."""
    if "id" not in table.c or not (highest := max(given, _largest(connection, table))):
        return
    if connection.dialect.name == "sqlite":
        if _highest_id(connection, table):
            row = {"table": table.name, "highest": highest}
            connection.execute(text("UPDATE sqlite_sequence SET seq = :highest WHERE name = :table"), row)
        elif given:
            row = {"table": table.name, "highest": given}
            connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :highest)"), row)
    elif sequence := _sequence(connection, table):
        connection.execute(select(func.setval(sequence, highest)))


def _largest(connection: Connection, table: Table) -> int:
    largest = connection.scalar(select(func.max(table.c.id)))
    return largest if isinstance(largest, int) else 0


def _sequence(connection: Connection, table: Table) -> str:
    """The sequence that gives out a table's row ids on PostgreSQL; empty if it has none."""
    query = text("SELECT pg_get_serial_sequence(:table, 'id')")
    return str(connection.scalar(query, {"table": table.name}) or "")


def _portable(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return {_BYTES: base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return {_TIME: aware.isoformat()}
    return value


def _native(connection: Connection, value: Any) -> Any:
    """A value for the database's driver; SQLite stores UTC times without a zone (columns.UtcDateTime)."""
    if not isinstance(value, Mapping):
        return value
    try:
        if _BYTES in value:
            return base64.b64decode(value[_BYTES], validate=True)
        moment = datetime.fromisoformat(value[_TIME])
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise StoreFailure("the backup of the store is damaged", detail="a value is malformed") from None
    return moment.replace(tzinfo=None) if connection.dialect.name == "sqlite" else moment
