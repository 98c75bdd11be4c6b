"""When stored certificates begin, which tells what is "soon" before their end; empty for those of earlier releases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the column. Daemons of earlier releases leave it empty."""
    op.add_column("certificates", sa.Column("not_before", sa.DateTime(timezone=True), nullable=True))
