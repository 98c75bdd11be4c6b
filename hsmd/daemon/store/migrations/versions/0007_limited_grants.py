"""Grants with limits, in a table that earlier releases do not read, and the counts of their uses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the tables. Types are spelt out: this file must not change when tables.py does."""
    op.create_table(
        "grant_uses",
        sa.Column("id", sa.Integer, autoincrement=True),
        sa.Column("client_id", sa.Integer, nullable=True),
        sa.Column("key_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("purpose", sa.SmallInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_grant_uses"),
        sa.ForeignKeyConstraint(
            ["client_id"], ["clients.id"], name="fk_grant_uses_client_id_clients", ondelete="SET NULL"
        ),
        sa.UniqueConstraint(
            "client_id", "key_digest", "purpose", name="uq_grant_uses_client_id_key_digest_purpose"
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "grant_use_names",
        sa.Column("uses_id", sa.Integer, autoincrement=False),
        sa.Column("client", _text(64)),
        sa.PrimaryKeyConstraint("uses_id", "client", name="pk_grant_use_names"),
        sa.ForeignKeyConstraint(
            ["uses_id"], ["grant_uses.id"], name="fk_grant_use_names_uses_id_grant_uses", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_grant_use_names_client", "grant_use_names", ["client"])
    op.create_table(
        "limited_grants",
        sa.Column("id", sa.Integer, autoincrement=True),
        sa.Column("client_id", sa.Integer, nullable=False),
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("purpose", sa.SmallInteger, nullable=False),
        sa.Column("uses_id", sa.Integer, nullable=False),
        sa.Column("not_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("max_uses", sa.BigInteger, nullable=True),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("constraints", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_limited_grants"),
        sa.UniqueConstraint(
            "client_id", "key_id", "purpose", name="uq_limited_grants_client_id_key_id_purpose"
        ),
        sa.CheckConstraint(
            "not_after IS NOT NULL OR max_uses IS NOT NULL OR constraints <> ''",
            name="ck_limited_grants_some_limit",
        ),
        sa.CheckConstraint("max_uses > 0", name="ck_limited_grants_some_use"),
        sa.ForeignKeyConstraint(
            ["client_id"], ["clients.id"], name="fk_limited_grants_client_id_clients", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["uses_id"], ["grant_uses.id"], name="fk_limited_grants_uses_id_grant_uses"),
        sa.ForeignKeyConstraint(
            ["key_id", "purpose"],
            ["key_purposes.key_id", "key_purposes.purpose"],
            name="fk_limited_grants_key_id_purpose_key_purposes",
            ondelete="CASCADE",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_limited_grants_key_id", "limited_grants", ["key_id"])
    op.create_index("ix_limited_grants_uses_id", "limited_grants", ["uses_id"])


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")
