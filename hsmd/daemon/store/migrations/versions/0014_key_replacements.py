"""Keys that are to take over the name of another key, or have taken it over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Make the table. Daemons of earlier releases do not know it: a key that one of them destroys ends its replacement."""
    op.create_table(
        "key_replacements",
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("successor_id", sa.Integer, nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("switched_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["key_id"], ["keys.id"], ondelete="CASCADE", name="fk_key_replacements_key_id"
        ),
        sa.ForeignKeyConstraint(
            ["successor_id"], ["keys.id"], ondelete="CASCADE", name="fk_key_replacements_successor_id"
        ),
        sa.PrimaryKeyConstraint("key_id", name="pk_key_replacements"),
        sa.UniqueConstraint("successor_id", name="uq_key_replacements_successor_id"),
    )
