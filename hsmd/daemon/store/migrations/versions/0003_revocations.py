"""Revoked credentials, the longest lifetime of a CA's certificates, succession of keys, and enrolments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Types are spelt out: this file must not change when tables.py does."""
    op.add_column("cas", sa.Column("max_lifetime_s", sa.BigInteger, nullable=False, server_default="86400"))
    op.add_column("credentials", sa.Column("successor_of", _text(128), nullable=True))
    op.create_table(
        "revocations",
        sa.Column("kind", sa.String(16)),
        sa.Column("ca_fingerprint", _text(128)),
        sa.Column("value", _text(256)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("kind", "ca_fingerprint", "value", name="pk_revocations"),
        sa.CheckConstraint("kind IN ('key', 'serial', 'key-id')", name="ck_revocations_known_kind"),
    )
    op.create_table(
        "enrolments",
        sa.Column("id", _text(32)),
        sa.Column("client_id", sa.Integer, nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_enrolments"),
        sa.ForeignKeyConstraint(
            ["client_id"], ["clients.id"], name="fk_enrolments_client_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_enrolments_client_id", "enrolments", ["client_id"])


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")
