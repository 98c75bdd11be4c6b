"""The first schema: keys, certificates, clients, credentials, CAs, grants and the version counter."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables. Types are spelt out: this file must not change when tables.py does."""
    _state()
    _keys()
    _clients()
    _grants()


def _name(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _time(name: str) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)


def _state() -> None:
    state = op.create_table(
        "state",
        sa.Column("id", sa.Integer, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_state"),
        sa.CheckConstraint("id = 1", name="ck_state_one_row"),
    )
    op.bulk_insert(state, [{"id": 1, "version": 1}])


def _keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.Integer, autoincrement=True),
        sa.Column("name", _name(64), nullable=False),
        sa.Column("key_type", sa.String(32), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("token", sa.String(256), nullable=False),
        _time("created_at"),
        sa.Column("warnings", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("name", name="uq_keys_name"),
        sa.UniqueConstraint("digest", name="uq_keys_digest"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "key_purposes",
        sa.Column("key_id", sa.Integer, autoincrement=False),
        sa.Column("purpose", sa.SmallInteger, autoincrement=False),
        sa.PrimaryKeyConstraint("key_id", "purpose", name="pk_key_purposes"),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name="fk_key_purposes_key_id", ondelete="CASCADE"),
    )
    op.create_table(
        "certificates",
        sa.Column("key_id", sa.Integer, autoincrement=False),
        sa.Column("chain_pem", sa.Text, nullable=False),
        _time("not_after"),
        sa.PrimaryKeyConstraint("key_id", name="pk_certificates"),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name="fk_certificates_key_id", ondelete="CASCADE"),
    )


def _clients() -> None:
    op.create_table(
        "clients",
        sa.Column("id", sa.Integer, autoincrement=True),
        sa.Column("name", _name(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_clients"),
        sa.UniqueConstraint("name", name="uq_clients_name"),
        sa.CheckConstraint("role IN ('operator', 'auditor', 'front-end')", name="ck_clients_known_role"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "credentials",
        sa.Column("fingerprint", _name(128)),
        sa.Column("client_id", sa.Integer, nullable=False),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_credentials"),
        sa.ForeignKeyConstraint(
            ["client_id"], ["clients.id"], name="fk_credentials_client_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_credentials_client_id", "credentials", ["client_id"])
    op.create_table(
        "cas",
        sa.Column("fingerprint", _name(128)),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_cas"),
    )
    op.create_table(
        "ca_clients",
        sa.Column("ca_fingerprint", _name(128)),
        sa.Column("client_id", sa.Integer, autoincrement=False),
        sa.PrimaryKeyConstraint("ca_fingerprint", "client_id", name="pk_ca_clients"),
        sa.ForeignKeyConstraint(
            ["ca_fingerprint"], ["cas.fingerprint"], name="fk_ca_clients_ca_fingerprint", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["client_id"], ["clients.id"], name="fk_ca_clients_client_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_ca_clients_client_id", "ca_clients", ["client_id"])


def _grants() -> None:
    op.create_table(
        "grants",
        sa.Column("client_id", sa.Integer, autoincrement=False),
        sa.Column("key_id", sa.Integer, autoincrement=False),
        sa.Column("purpose", sa.SmallInteger, autoincrement=False),
        sa.PrimaryKeyConstraint("client_id", "key_id", "purpose", name="pk_grants"),
        sa.ForeignKeyConstraint(
            ["client_id"], ["clients.id"], name="fk_grants_client_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["key_id", "purpose"],
            ["key_purposes.key_id", "key_purposes.purpose"],
            name="fk_grants_key_id_purpose",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_grants_key_id", "grants", ["key_id"])
