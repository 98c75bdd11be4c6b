"""Which certificate each front end serves for a key, as it reports it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Make the table. Daemons of earlier releases do not know it; what they remove is removed here by the database."""
    op.create_table(
        "served_certificates",
        sa.Column("client_id", sa.Integer, nullable=False),
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("certificate", sa.LargeBinary(32), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["client_id"], ["clients.id"], ondelete="CASCADE", name="fk_served_certificates_client_id"
        ),
        sa.ForeignKeyConstraint(
            ["key_id"], ["keys.id"], ondelete="CASCADE", name="fk_served_certificates_key_id"
        ),
        sa.PrimaryKeyConstraint("client_id", "key_id", name="pk_served_certificates"),
    )
    op.create_index("ix_served_certificates_key_id", "served_certificates", ["key_id"])
