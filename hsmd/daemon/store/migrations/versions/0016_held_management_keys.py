"""Whether a management key is held after a restore."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Add the column. A store that was restored at revision 0015 has held versions: the keys of their owners are held, too."""
    op.add_column(
        "vault_management_keys", sa.Column("held", sa.Boolean, nullable=False, server_default=sa.false())
    )
    keys = sa.table(
        "vault_management_keys", sa.column("owner_id"), sa.column("state"), sa.column("held", sa.Boolean)
    )
    versions = sa.table("vault_versions", sa.column("owner_id"), sa.column("held", sa.Boolean))
    restored = sa.select(versions.c.owner_id).where(versions.c.held)
    in_use = keys.c.state.in_(("active", "replaced"))
    op.execute(sa.update(keys).where(in_use, keys.c.owner_id.in_(restored)).values(held=True))
