"""Role sets: each client has one or several roles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the table and copy the role of each client. Types are spelt out: this file must not change when tables.py does.

    The column `clients.role` stays, because daemons of the release before may be running on this store.
    """
    op.create_table(
        "client_roles",
        sa.Column("client_id", sa.Integer, autoincrement=False),
        sa.Column("role", _text(16)),
        sa.PrimaryKeyConstraint("client_id", "role", name="pk_client_roles"),
        sa.ForeignKeyConstraint(
            ["client_id"], ["clients.id"], name="fk_client_roles_client_id_clients", ondelete="CASCADE"
        ),
    )
    exclusive = sa.text("role IN ('operator', 'depositary')")
    op.create_index(
        "uq_client_roles_exclusive",
        "client_roles",
        ["client_id"],
        unique=True,
        sqlite_where=exclusive,
        postgresql_where=exclusive,
    )
    op.execute("INSERT INTO client_roles (client_id, role) SELECT id, role FROM clients")


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")
