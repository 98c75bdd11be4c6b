"""Which clients get certificates from which authority, and which client a certificate was issued to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Make the table and the column. Daemons of earlier releases write neither: they issue nothing to nodes."""
    op.create_table(
        "node_permits",
        sa.Column("authority_id", sa.Integer, nullable=False),
        sa.Column("client_id", sa.Integer, nullable=False),
        sa.Column("profile", sa.String(16), nullable=False),
        sa.Column("common_name", sa.Text, nullable=False),
        sa.Column("dns_names", sa.Text, nullable=False),
        sa.Column("ip_addresses", sa.Text, nullable=False),
        sa.Column("emails", sa.Text, nullable=False),
        sa.Column("term_s", sa.BigInteger, nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["authority_id"], ["authorities.key_id"], ondelete="CASCADE", name="fk_node_permits_authority_id"
        ),
        sa.ForeignKeyConstraint(
            ["client_id"], ["clients.id"], ondelete="CASCADE", name="fk_node_permits_client_id"
        ),
        sa.PrimaryKeyConstraint("authority_id", "client_id", name="pk_node_permits"),
    )
    op.create_index("ix_node_permits_client_id", "node_permits", ["client_id"])
    op.add_column("issued_certificates", sa.Column("client_id", sa.Integer, nullable=True))
    op.create_index(
        "ix_issued_certificates_authority_id_client_id_not_after",
        "issued_certificates",
        ["authority_id", "client_id", "not_after"],
    )
