"""Operators' endorsements of the keys that sign statements."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the table. Types are spelt out: this file must not change when tables.py does."""
    op.create_table(
        "statement_endorsements",
        sa.Column("id", _text(64)),
        sa.Column("declared", _text(32), nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_statement_endorsements"),
        sa.UniqueConstraint("declared", name="uq_statement_endorsements_declared"),
    )


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")
