"""Certificate authorities, and the certificates that they have issued."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Make the tables. Daemons of earlier releases do not serve authorities' keys; one that destroys such a key ends it."""
    op.create_table(
        "authorities",
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("constraints", sa.Text, nullable=False),
        sa.Column("lists_at", sa.Text, nullable=False),
        sa.Column("list_s", sa.BigInteger, nullable=False),
        sa.Column("list_number", sa.BigInteger, nullable=False),
        sa.Column("list_der", sa.LargeBinary, nullable=True),
        sa.Column("list_ends", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_token", sa.String(256), nullable=False),
        sa.Column("next_public_key", sa.LargeBinary, nullable=True),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], ondelete="CASCADE", name="fk_authorities_key_id"),
        sa.PrimaryKeyConstraint("key_id", name="pk_authorities"),
    )
    serial = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")
    op.create_table(
        "issued_certificates",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("authority_id", sa.Integer, nullable=False),
        sa.Column("serial", serial, nullable=False),
        sa.Column("profile", sa.String(16), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("names", sa.Text, nullable=False),
        sa.Column("key_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("certificate", sa.LargeBinary, nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(
            ["authority_id"],
            ["authorities.key_id"],
            ondelete="CASCADE",
            name="fk_issued_certificates_authority_id",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_issued_certificates"),
        sa.UniqueConstraint("authority_id", "serial", name="uq_issued_certificates_authority_id_serial"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_issued_certificates_authority_id_revoked_at",
        "issued_certificates",
        ["authority_id", "revoked_at"],
    )
