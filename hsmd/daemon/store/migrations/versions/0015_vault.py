"""The vault: management keys, records with their versions, statements and envelopes, checkers, and what is counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Make the tables. Types are spelt out: this file must not change when tables.py does.

    Daemons of earlier releases do not know them; the reference to `clients` refuses to let them remove an owner.
    """
    _make_owners()
    _make_records()
    _make_versions()
    _make_checkers()
    _make_acquisitions()


def _make_owners() -> None:
    op.create_table(
        "vault_owners",
        sa.Column("owner_id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("client_id", sa.Integer, nullable=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("checkers", sa.Boolean, nullable=False),
        sa.Column("versions", sa.Integer, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("owner_id", name="pk_vault_owners"),
        sa.ForeignKeyConstraint(
            ["client_id"], ["clients.id"], name="fk_vault_owners_client_id_clients", ondelete="RESTRICT"
        ),
        sa.UniqueConstraint("client_id", name="uq_vault_owners_client_id"),
    )
    op.create_table(
        "vault_management_keys",
        sa.Column("id", sa.Integer, autoincrement=True),
        sa.Column("owner_id", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("suite", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("text", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("succession", sa.LargeBinary, nullable=False),
        sa.Column("confirmation", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_vault_management_keys"),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["vault_owners.owner_id"], name="fk_vault_management_keys_owner_id_vault_owners"
        ),
        sa.UniqueConstraint("owner_id", "number", name="uq_vault_management_keys_owner_id_number"),
        sa.UniqueConstraint("owner_id", "digest", name="uq_vault_management_keys_owner_id_digest"),
        sa.CheckConstraint(
            "state IN ('pending', 'active', 'replaced', 'retired', 'lost')",
            name="ck_vault_management_keys_known_state",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "uq_vault_management_keys_active",
        "vault_management_keys",
        ["owner_id"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )


def _make_records() -> None:
    op.create_table(
        "vault_records",
        sa.Column("id", sa.Integer, autoincrement=True),
        sa.Column("owner_id", sa.Integer, nullable=False),
        sa.Column("name", _text(64), nullable=False),
        sa.Column("newest", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_vault_records"),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["vault_owners.owner_id"], name="fk_vault_records_owner_id_vault_owners"
        ),
        sa.UniqueConstraint("owner_id", "name", name="uq_vault_records_owner_id_name"),
        sqlite_autoincrement=True,
    )


def _make_versions() -> None:
    op.create_table(
        "vault_versions",
        sa.Column("id", sa.Integer, autoincrement=True),
        sa.Column("record_id", sa.Integer, nullable=False),
        sa.Column("owner_id", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("key_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("suite", sa.String(64), nullable=False),
        sa.Column("management_id", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("head", sa.LargeBinary(32), nullable=False),
        sa.Column("standing", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(256), nullable=False),
        sa.Column("compromised_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("suspended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("suspended_reason", sa.String(256), nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("term_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("mode", sa.String(8), nullable=False),
        sa.Column("max_uses", sa.BigInteger, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("released", sa.BigInteger, nullable=False),
        sa.Column("told_uses", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("spki", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_vault_versions"),
        sa.ForeignKeyConstraint(
            ["record_id"], ["vault_records.id"], name="fk_vault_versions_record_id_vault_records"
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["vault_owners.owner_id"], name="fk_vault_versions_owner_id_vault_owners"
        ),
        sa.ForeignKeyConstraint(
            ["management_id"],
            ["vault_management_keys.id"],
            name="fk_vault_versions_management_id_vault_management_keys",
        ),
        sa.UniqueConstraint("record_id", "version", name="uq_vault_versions_record_id_version"),
        sa.CheckConstraint(
            "standing IN ('live', 'revoked', 'compromised', 'destroyed')",
            name="ck_vault_versions_known_standing",
        ),
        sa.CheckConstraint("released <= requests", name="ck_vault_versions_counted"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_vault_versions_owner_id_key_digest", "vault_versions", ["owner_id", "key_digest"])
    op.create_index("ix_vault_versions_due_at", "vault_versions", ["due_at"])
    op.create_index(
        "ix_vault_versions_management_id",
        "vault_versions",
        ["management_id", "id"],
        sqlite_where=sa.text("standing <> 'destroyed'"),
        postgresql_where=sa.text("standing <> 'destroyed'"),
    )
    op.create_table(
        "vault_envelopes",
        sa.Column("version_id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("version_id", name="pk_vault_envelopes"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["vault_versions.id"], name="fk_vault_envelopes_version_id_vault_versions"
        ),
    )
    op.create_table(
        "vault_statements",
        sa.Column("version_id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("text", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("signer", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("version_id", "number", name="pk_vault_statements"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["vault_versions.id"], name="fk_vault_statements_version_id_vault_versions"
        ),
    )


def _make_checkers() -> None:
    op.create_table(
        "vault_allowed",
        sa.Column("owner_id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("client_id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "client_id", name="pk_vault_allowed"),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["vault_owners.owner_id"], name="fk_vault_allowed_owner_id_vault_owners"
        ),
        sa.ForeignKeyConstraint(
            ["client_id"], ["clients.id"], name="fk_vault_allowed_client_id_clients", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_vault_allowed_client_id", "vault_allowed", ["client_id"])
    op.create_table(
        "vault_check_sums",
        sa.Column("id", sa.Integer, autoincrement=True),
        sa.Column("owner_id", sa.Integer, nullable=False),
        sa.Column("day", _text(10), nullable=False),
        sa.Column("asker_id", sa.Integer, nullable=False),
        sa.Column("asker", sa.String(64), nullable=False),
        sa.Column("record", _text(64), nullable=False),
        sa.Column("verdict", _text(16), nullable=False),
        sa.Column("checks", sa.BigInteger, nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_vault_check_sums"),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["vault_owners.owner_id"], name="fk_vault_check_sums_owner_id_vault_owners"
        ),
        sa.UniqueConstraint(
            "owner_id",
            "day",
            "asker_id",
            "record",
            "verdict",
            name="uq_vault_check_sums_owner_id_day_asker_id_record_verdict",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_vault_check_sums_day", "vault_check_sums", ["day"])
    op.create_index("ix_vault_check_sums_owner_id_id", "vault_check_sums", ["owner_id", "id"])


def _make_acquisitions() -> None:
    op.create_table(
        "vault_acquisitions",
        sa.Column("version_id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("request", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("released", sa.BigInteger, nullable=False),
        sa.Column("refusal", sa.String(32), nullable=False),
        sa.Column("origin", _text(128), nullable=False),
        sa.Column("ticket", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("record", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version_id", "request", name="pk_vault_acquisitions"),
    )


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")
