"""Column types, columns and statements that several tables use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Integer,
    String,
    Table,
    TypeDecorator,
    and_,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

S = TypeVar("S")
V = TypeVar("V")

_CHUNK = 500
"""Values in one IN list; both databases have a limit, at least 32,766."""


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes; SQLite stores them without a zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def text_key(length: int) -> String:
    """Text that is compared by its bytes on both databases (PostgreSQL would use its locale)."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def row_id() -> Column[int]:
    """A row id, never reused after a removal (on SQLite with the table's `sqlite_autoincrement`)."""
    return Column("id", Integer, primary_key=True, autoincrement=True)


Upsert = postgresql.Insert | sqlite.Insert
"""An INSERT of a database's dialect, which has `on_conflict_do_update` and `on_conflict_do_nothing`."""


def upserts(table: Table, make: Callable[[Upsert], S]) -> dict[str, S]:
    """A statement by the name of the dialect, made once: making it costs more than running it."""
    return {"postgresql": make(postgresql.insert(table)), "sqlite": make(sqlite.insert(table))}


def chunks(values: Sequence[V]) -> Iterator[Sequence[V]]:
    """The values in parts that fit into an IN list."""
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]


def in_pairs(
    first: ColumnElement[int], second: ColumnElement[int], pairs: Sequence[tuple[int, int]]
) -> ColumnElement[bool]:
    """Whether two columns are one of at most a chunk of pairs. SQLite uses an index only if each column is compared, too."""
    return and_(
        first.in_({each for each, _ in pairs}),
        second.in_({each for _, each in pairs}),
        tuple_(first, second).in_(pairs),
    )
