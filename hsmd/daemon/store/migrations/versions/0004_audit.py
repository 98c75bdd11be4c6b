"""What is known of audit logs outside of them, declared discontinuities, and who owns which key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the tables. Types are spelt out: this file must not change when tables.py does."""
    op.create_table(
        "audit_heads",
        sa.Column("origin", _text(128)),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("root", sa.LargeBinary(32), nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("origin", name="pk_audit_heads"),
    )
    op.create_table(
        "audit_discontinuities",
        sa.Column("origin", _text(128)),
        sa.Column("declared", _text(32)),
        sa.Column("note", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("origin", "declared", name="pk_audit_discontinuities"),
    )
    op.create_table(
        "key_owners",
        sa.Column("key_id", sa.Integer, autoincrement=False),
        sa.Column("client_id", sa.Integer, autoincrement=False),
        sa.PrimaryKeyConstraint("key_id", "client_id", name="pk_key_owners"),
        sa.ForeignKeyConstraint(
            ["key_id"], ["keys.id"], name="fk_key_owners_key_id_keys", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["client_id"], ["clients.id"], name="fk_key_owners_client_id_clients", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_key_owners_client_id", "key_owners", ["client_id"])


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")
