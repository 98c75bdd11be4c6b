"""The ledger: events with their readers and the keys that make each one unique, counters, and leases."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the tables. Types are spelt out: this file must not change when tables.py does."""
    _make_ledger()
    _make_events()
    op.create_table(
        "counters",
        sa.Column("name", _text(320)),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_counters"),
    )
    op.create_table(
        "leases",
        sa.Column("name", _text(320)),
        sa.Column("holder", sa.String(512), nullable=False),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )


def _make_ledger() -> None:
    ledger = op.create_table(
        "ledger",
        sa.Column("id", sa.Integer, autoincrement=False),
        sa.Column("epoch", sa.String(8), nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("pruned", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger"),
        sa.CheckConstraint("id = 1", name="ck_ledger_one_row"),
    )
    op.bulk_insert(ledger, [{"id": 1, "epoch": secrets.token_hex(4), "last": 0, "pruned": 0}])
    op.create_table(
        "ledger_epochs",
        sa.Column("epoch", _text(8)),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("epoch", name="pk_ledger_epochs"),
    )


def _make_events() -> None:
    op.create_table(
        "events",
        sa.Column("number", sa.BigInteger, autoincrement=False),
        sa.Column("epoch", sa.String(8), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(256), nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_events"),
    )
    op.create_table(
        "event_readers",
        sa.Column("reader", _text(64)),
        sa.Column("number", sa.BigInteger, autoincrement=False),
        sa.PrimaryKeyConstraint("reader", "number", name="pk_event_readers"),
        sa.ForeignKeyConstraint(
            ["number"], ["events.number"], name="fk_event_readers_number_events", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_event_readers_number", "event_readers", ["number"])
    op.create_table(
        "event_keys",
        sa.Column("key", _text(321)),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_event_keys"),
    )
    op.create_index("ix_event_keys_at", "event_keys", ["at"])


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")
