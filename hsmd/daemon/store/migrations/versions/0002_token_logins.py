"""Logins to tokens: which are stopped because a PIN was refused, and whose turn it is to try one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table. Types are spelt out: this file must not change when tables.py does."""
    op.create_table(
        "token_logins",
        sa.Column("token", sa.String(256).with_variant(sa.String(256, collation="C"), "postgresql")),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stopped_by", sa.String(256), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("cleared", sa.Boolean, nullable=False),
        sa.Column("holder", sa.String(512), nullable=False),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("token", name="pk_token_logins"),
    )
