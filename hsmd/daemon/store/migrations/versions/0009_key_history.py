"""The history of keys with their owners and names, and since when clients have their names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables, and note the keys that are served. Types are spelt out: this file must not change when tables.py does."""
    op.add_column("clients", sa.Column("named_at", _TIME, nullable=True))
    op.create_table(
        "key_history",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("owner_id", sa.Integer, nullable=True),
        sa.Column("owner_name", sa.String(64), nullable=False),
        sa.Column("made_at", _TIME, nullable=False),
        sa.Column("destroyed_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_key_history"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_key_history_digest", "key_history", ["digest"])
    op.create_index("ix_key_history_owner_id", "key_history", ["owner_id"])
    op.create_table(
        "key_names",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("history_id", sa.Integer, nullable=False),
        sa.Column("name", _text(64), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("until", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_key_names"),
        sa.ForeignKeyConstraint(
            ["history_id"], ["key_history.id"], name="fk_key_names_history_id_key_history"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_key_names_history_id", "key_names", ["history_id"])
    op.execute(
        "INSERT INTO key_history (digest, owner_name, made_at) SELECT digest, '', created_at FROM keys ORDER BY id"
    )
    op.execute(
        "INSERT INTO key_names (history_id, name, since) SELECT key_history.id, keys.name, keys.created_at "
        "FROM keys JOIN key_history ON key_history.digest = keys.digest ORDER BY keys.id"
    )


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")
