"""Notes of what changed in the contents, made by triggers: writes of every release are noted, and what a removal takes along."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_NOTED = (
    # table, kind of the note, item: the row of the contents that is another one now
    ("clients", "client", "{row}.id"),
    ("client_roles", "client", "{row}.client_id"),
    ("credentials", "client", "{row}.client_id"),
    ("keys", "key", "{row}.id"),
    ("key_purposes", "key", "{row}.key_id"),
    ("certificates", "certificate", "{row}.key_id"),
    ("grants", "grant", "{row}.client_id || '/' || {row}.key_id"),
    ("limited_grants", "grant", "{row}.client_id || '/' || {row}.key_id"),
    ("cas", "user-ca", "{row}.fingerprint"),
    ("ca_clients", "user-ca", "{row}.ca_fingerprint"),
    ("revocations", "revocation", "{row}.kind || ' ' || {row}.ca_fingerprint || ' ' || {row}.value"),
    ("statement_endorsements", "endorsement", "{row}.id"),
)


def upgrade() -> None:
    """Make table, column and triggers. All is spelt out: this file must not change when tables.py does."""
    op.create_table(
        "changes",
        sa.Column("version", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("kind", _text(16), nullable=False),
        sa.Column("item", _text(512), nullable=False),
        sa.PrimaryKeyConstraint("version", "kind", "item", name="pk_changes"),
    )
    op.add_column("state", sa.Column("noted_after", sa.BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE state SET noted_after = version")
    make = _on_postgresql if op.get_bind().dialect.name == "postgresql" else _on_sqlite
    for table, kind, item in _NOTED:
        make(table, kind, item)


def _on_postgresql(table: str, kind: str, item: str) -> None:
    op.execute(
        f"CREATE FUNCTION note_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP <> 'INSERT' THEN {_note(kind, item.format(row='OLD'))}; END IF; "
        f"IF TG_OP <> 'DELETE' THEN {_note(kind, item.format(row='NEW'))}; END IF; "
        "RETURN NULL; END $$"
    )
    op.execute(
        f"CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION note_{table}()"
    )


def _on_sqlite(table: str, kind: str, item: str) -> None:
    for event, rows in (("INSERT", ("NEW",)), ("UPDATE", ("OLD", "NEW")), ("DELETE", ("OLD",))):
        notes = "; ".join(_note(kind, item.format(row=row)) for row in rows)
        op.execute(
            f"CREATE TRIGGER note_{table}_{event.lower()} AFTER {event} ON {table} FOR EACH ROW BEGIN {notes}; END"
        )


def _note(kind: str, item: str) -> str:
    return (
        f"INSERT INTO changes (version, kind, item) SELECT version, '{kind}', {item} FROM state WHERE true "
        "ON CONFLICT DO NOTHING"
    )


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")
