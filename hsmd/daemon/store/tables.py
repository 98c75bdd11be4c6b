"""The tables; constraints reject invalid rows, and rows that refer to a removed row are removed with it."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from hsmd.daemon.store.columns import UtcDateTime, row_id, text_key

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# One row. Every write starts by incrementing its version and so waits for the previous write: what it then reads
# stays true until it commits. `noted_after`: what later versions changed stands in `changes`.
state = Table(
    "state",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    Column("noted_after", BigInteger, nullable=False, server_default="0"),
)

# What each of the newest versions changed, for daemons that have read the contents before. Triggers write it (revision
# 0011), so it holds the changes of daemons of earlier releases too, and all that a removal takes along. A revision that
# makes one of these tables anew on SQLite makes its triggers again.
changes = Table(
    "changes",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", text_key(16), primary_key=True),
    Column("item", text_key(512), primary_key=True),
)

keys = Table(
    "keys",
    metadata,
    row_id(),
    Column("name", text_key(64), nullable=False, unique=True),
    Column("key_type", String(32), nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("token", String(256), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("warnings", Text, nullable=False),
    sqlite_autoincrement=True,
)

key_purposes = Table(
    "key_purposes",
    metadata,
    Column("key_id", ForeignKey("keys.id", ondelete="CASCADE"), primary_key=True),
    Column("purpose", SmallInteger, primary_key=True, autoincrement=False),
)

certificates = Table(
    "certificates",
    metadata,
    Column("key_id", ForeignKey("keys.id", ondelete="CASCADE"), primary_key=True),
    Column("chain_pem", Text, nullable=False),
    Column("not_after", UtcDateTime, nullable=False),
    Column("not_before", UtcDateTime, nullable=True),
)

# A key that is an authority's. `constraints` repeats its ceiling; the newest revocation list has the number `list_number`.
authorities = Table(
    "authorities",
    metadata,
    Column("key_id", ForeignKey("keys.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("constraints", Text, nullable=False),
    Column("lists_at", Text, nullable=False),
    Column("list_s", BigInteger, nullable=False),
    Column("list_number", BigInteger, nullable=False),
    Column("list_der", LargeBinary, nullable=True),
    Column("list_ends", UtcDateTime, nullable=True),
    Column("next_token", String(256), nullable=False),
    Column("next_public_key", LargeBinary, nullable=True),
)

# A row is there before the authority signs; `certificate` comes after it, and is missing if it was not signed, or a daemon
# was killed just then. `client_id`: the node that asked for it, whose row may be gone.
issued_certificates = Table(
    "issued_certificates",
    metadata,
    row_id(),
    Column("authority_id", ForeignKey("authorities.key_id", ondelete="CASCADE"), nullable=False),
    Column("serial", text_key(40), nullable=False),
    Column("profile", String(16), nullable=False),
    Column("subject", Text, nullable=False),
    Column("names", Text, nullable=False),
    Column("key_digest", LargeBinary(32), nullable=False),
    Column("not_before", UtcDateTime, nullable=False),
    Column("not_after", UtcDateTime, nullable=False),
    Column("certificate", LargeBinary, nullable=True),
    Column("revoked_at", UtcDateTime, nullable=True),
    Column("reason", String(32), nullable=False),
    Column("client_id", Integer, nullable=True),
    UniqueConstraint("authority_id", "serial"),
    Index("ix_issued_certificates_authority_id_revoked_at", "authority_id", "revoked_at"),
    Index(
        "ix_issued_certificates_authority_id_client_id_not_after", "authority_id", "client_id", "not_after"
    ),
    sqlite_autoincrement=True,
)

# What certificates a client with the role `node` gets from an authority. Names are JSON arrays; `term_s` 0: the longest term.
node_permits = Table(
    "node_permits",
    metadata,
    Column(
        "authority_id",
        ForeignKey("authorities.key_id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column(
        "client_id",
        ForeignKey("clients.id", ondelete="CASCADE"),
        primary_key=True,
        index=True,
        autoincrement=False,
    ),
    Column("profile", String(16), nullable=False),
    Column("common_name", Text, nullable=False),
    Column("dns_names", Text, nullable=False),
    Column("ip_addresses", Text, nullable=False),
    Column("emails", Text, nullable=False),
    Column("term_s", BigInteger, nullable=False),
    Column("since", UtcDateTime, nullable=False),
)

# A key, and the one that is to take over its name, or has done so. The row goes with either of them.
key_replacements = Table(
    "key_replacements",
    metadata,
    Column("key_id", ForeignKey("keys.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("successor_id", ForeignKey("keys.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("begun_at", UtcDateTime, nullable=False),
    Column("switched_at", UtcDateTime, nullable=True),
)

# What front ends report that they serve: the SHA-256 of the leaf, and since when.
served_certificates = Table(
    "served_certificates",
    metadata,
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
    Column("key_id", ForeignKey("keys.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("certificate", LargeBinary(32), nullable=False),
    Column("since", UtcDateTime, nullable=False),
)

# `role` is for running daemons of releases that know one role per client, and only these three: client_rows.py.
clients = Table(
    "clients",
    metadata,
    row_id(),
    Column("name", text_key(64), nullable=False, unique=True),
    Column(
        "role",
        String(16),
        CheckConstraint("role IN ('operator', 'auditor', 'front-end')", name="known_role"),
        nullable=False,
    ),
    Column("created_at", UtcDateTime, nullable=False),
    Column("named_at", UtcDateTime, nullable=True),
    sqlite_autoincrement=True,
)

# Roles are not checked here, so that a later release may add some; the index refuses an operator that is a depositary.
client_roles = Table(
    "client_roles",
    metadata,
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
    Column("role", text_key(16), primary_key=True),
)
_EXCLUSIVE = text("role IN ('operator', 'depositary')")
Index(
    "uq_client_roles_exclusive",
    client_roles.c.client_id,
    unique=True,
    sqlite_where=_EXCLUSIVE,
    postgresql_where=_EXCLUSIVE,
)

# The primary key ensures that a fingerprint belongs to one client.
credentials = Table(
    "credentials",
    metadata,
    Column("fingerprint", text_key(128), primary_key=True),
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("public_key", Text, nullable=False),
    Column("successor_of", text_key(128), nullable=True),
)

cas = Table(
    "cas",
    metadata,
    Column("fingerprint", text_key(128), primary_key=True),
    Column("public_key", Text, nullable=False),
    Column("max_lifetime_s", BigInteger, nullable=False, server_default="86400"),
)

ca_clients = Table(
    "ca_clients",
    metadata,
    Column("ca_fingerprint", ForeignKey("cas.fingerprint", ondelete="CASCADE"), primary_key=True),
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True, index=True),
)

# The second foreign key keeps every grant within the key's ceiling.
grants = Table(
    "grants",
    metadata,
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
    Column("key_id", Integer, primary_key=True, index=True, autoincrement=False),
    Column("purpose", SmallInteger, primary_key=True, autoincrement=False),
    ForeignKeyConstraint(
        ["key_id", "purpose"], ["key_purposes.key_id", "key_purposes.purpose"], ondelete="CASCADE"
    ),
)

# Uses of limited grants that were counted. A row outlives the grant, the client and the key, so that adding them again
# gives no use back: it is found by the client's row, or by a name that its client has had. `held`: a backup was
# restored, and the uses counted after it was made are not known.
grant_uses = Table(
    "grant_uses",
    metadata,
    row_id(),
    Column("client_id", ForeignKey("clients.id", ondelete="SET NULL"), nullable=True),
    Column("key_digest", LargeBinary(32), nullable=False),
    Column("purpose", SmallInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("held", Boolean, nullable=False),
    UniqueConstraint("client_id", "key_digest", "purpose"),
    sqlite_autoincrement=True,
)

grant_use_names = Table(
    "grant_use_names",
    metadata,
    Column("uses_id", ForeignKey("grant_uses.id", ondelete="CASCADE"), primary_key=True),
    Column("client", text_key(64), primary_key=True, index=True),
)

# Grants with limits. They are not in `grants`, where a daemon of an earlier release would take them for unlimited ones.
limited_grants = Table(
    "limited_grants",
    metadata,
    row_id(),
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), nullable=False),
    Column("key_id", Integer, nullable=False, index=True),
    Column("purpose", SmallInteger, nullable=False),
    Column("uses_id", ForeignKey("grant_uses.id"), nullable=False, index=True),
    Column("not_after", UtcDateTime, nullable=True),
    Column("max_uses", BigInteger, CheckConstraint("max_uses > 0", name="some_use"), nullable=True),
    Column("request", Text, nullable=False),
    Column("constraints", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("client_id", "key_id", "purpose"),
    CheckConstraint("not_after IS NOT NULL OR max_uses IS NOT NULL OR constraints <> ''", name="some_limit"),
    ForeignKeyConstraint(
        ["key_id", "purpose"], ["key_purposes.key_id", "key_purposes.purpose"], ondelete="CASCADE"
    ),
    sqlite_autoincrement=True,
)

# Uses that were counted, until their daemon (`origin` is its log) has them in its log and a later transaction removes them.
# They stay when grant, client or key are removed, so they refer to none of them.
counted_uses = Table(
    "counted_uses",
    metadata,
    Column("grant_id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("origin", text_key(128), nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("client", String(64), nullable=False),
    Column("key_digest", LargeBinary(32), nullable=False),
    Column("purpose", SmallInteger, nullable=False),
    Column("counted_at", UtcDateTime, nullable=False),
)

# Tokens by their names in hsmd.toml, where all daemons in a fleet use the same name for a token. Holds nothing about PINs.
token_logins = Table(
    "token_logins",
    metadata,
    Column("token", text_key(256), primary_key=True),
    Column("stopped_at", UtcDateTime, nullable=True),
    Column("stopped_by", String(256), nullable=False),
    Column("reason", Text, nullable=False),
    Column("cleared", Boolean, nullable=False),
    Column("holder", String(512), nullable=False),
    Column("held_until", UtcDateTime, nullable=True),
)

# Credentials that are refused even if a trusted CA certifies them; the CA is empty for keys.
revocations = Table(
    "revocations",
    metadata,
    Column(
        "kind",
        String(16),
        CheckConstraint("kind IN ('key', 'serial', 'key-id')", name="known_kind"),
        primary_key=True,
    ),
    Column("ca_fingerprint", text_key(128), primary_key=True),
    Column("value", text_key(256), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
)

# One-time tokens that have not been used; the statement that uses one deletes its row.
enrolments = Table(
    "enrolments",
    metadata,
    Column("id", text_key(32), primary_key=True),
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("secret_sha256", LargeBinary(32), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("tries", Integer, nullable=False),
)

# The newest checkpoint of each daemon's log, to detect at startup that a log was rolled back.
audit_heads = Table(
    "audit_heads",
    metadata,
    Column("origin", text_key(128), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary(32), nullable=False),
    Column("key", Text, nullable=False),
)

audit_discontinuities = Table(
    "audit_discontinuities",
    metadata,
    Column("origin", text_key(128), primary_key=True),
    Column("declared", text_key(32), primary_key=True),
    Column("note", Text, nullable=False),
)

# Operators' notes about the keys that sign statements; `id` is the SHA-256 of the note in hex.
statement_endorsements = Table(
    "statement_endorsements",
    metadata,
    Column("id", text_key(64), primary_key=True),
    Column("declared", text_key(32), nullable=False, unique=True),
    Column("note", Text, nullable=False),
)

# Every key that is or was served, and its owner; rows stay when key and client are removed, so they refer to neither. The row
# of a key that is served has the key's digest and creation time, and no end.
key_history = Table(
    "key_history",
    metadata,
    row_id(),
    Column("digest", LargeBinary(32), nullable=False, index=True),
    Column("owner_id", Integer, nullable=True, index=True),
    Column("owner_name", String(64), nullable=False),
    Column("made_at", UtcDateTime, nullable=False),
    Column("destroyed_at", UtcDateTime, nullable=True),
    sqlite_autoincrement=True,
)

# The names of these keys, each with the time in which the key had it.
key_names = Table(
    "key_names",
    metadata,
    row_id(),
    Column("history_id", ForeignKey("key_history.id"), nullable=False, index=True),
    Column("name", text_key(64), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("until", UtcDateTime, nullable=True),
    sqlite_autoincrement=True,
)

# Readers of keys: clients that may read all audit records about a key, whichever client used it. Owners are in `key_history`.
key_owners = Table(
    "key_owners",
    metadata,
    Column("key_id", ForeignKey("keys.id", ondelete="CASCADE"), primary_key=True),
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True, index=True),
)

# One row, and the lock that orders events: a transaction that appends takes it last and holds it until it commits, so
# numbers follow commits. It is not the row of `state`: events make no daemon reload, and wait for no other change.
ledger = Table(
    "ledger",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    Column("epoch", String(8), nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("pruned", BigInteger, nullable=False),
)

# Epochs that ended with a restore, and the last number of each that the restored store knew.
ledger_epochs = Table(
    "ledger_epochs",
    metadata,
    Column("epoch", text_key(8), primary_key=True),
    Column("last", BigInteger, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", String(8), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("subject", String(256), nullable=False),
    Column("payload", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

# Who may read an event: "role:NAME" or "client:ROW ID". A page is read along the primary key.
event_readers = Table(
    "event_readers",
    metadata,
    Column("reader", text_key(64), primary_key=True),
    Column(
        "number",
        ForeignKey("events.number", ondelete="CASCADE"),
        primary_key=True,
        index=True,
        autoincrement=False,
    ),
)

# Keys of events that must not be appended twice; they are kept longer than the events.
event_keys = Table(
    "event_keys",
    metadata,
    Column("key", text_key(321), primary_key=True),
    Column("at", UtcDateTime, nullable=False, index=True),
)

counters = Table(
    "counters",
    metadata,
    Column("name", text_key(320), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# Rows stay when a lease is released, so that terms only grow.
leases = Table(
    "leases",
    metadata,
    Column("name", text_key(320), primary_key=True),
    Column("holder", String(512), nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("until", UtcDateTime, nullable=True),
)

# --- vault ---

# An owner of vaulted keys: `owner_id` is the row id of its client, which no other client gets. The row stays when the client
# is removed, which `client_id` refuses as long as it is set. `versions` and `bytes` are for quotas: versions that are not
# destroyed; envelopes, statements and public halves. Changes of an owner's keys lock this row.
vault_owners = Table(
    "vault_owners",
    metadata,
    Column("owner_id", Integer, primary_key=True, autoincrement=False),
    Column("client_id", ForeignKey("clients.id", ondelete="RESTRICT"), nullable=True, unique=True),
    Column("name", String(64), nullable=False),
    Column("checkers", Boolean, nullable=False),
    Column("versions", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)

# Statements about management keys. A row stays when its key is replaced. `held`: a backup was restored, so it is not known
# whether the key was replaced since; it proves nothing until an operator confirms it again.
vault_management_keys = Table(
    "vault_management_keys",
    metadata,
    row_id(),
    Column("owner_id", ForeignKey("vault_owners.owner_id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("suite", String(16), nullable=False),
    Column(
        "state",
        String(16),
        CheckConstraint("state IN ('pending', 'active', 'replaced', 'retired', 'lost')", name="known_state"),
        nullable=False,
    ),
    Column("text", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("succession", LargeBinary, nullable=False),
    Column("confirmation", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("held", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("owner_id", "number"),
    UniqueConstraint("owner_id", "digest"),
    sqlite_autoincrement=True,
)
_ACTIVE = text("state = 'active'")
Index(
    "uq_vault_management_keys_active",
    vault_management_keys.c.owner_id,
    unique=True,
    sqlite_where=_ACTIVE,
    postgresql_where=_ACTIVE,
)

vault_records = Table(
    "vault_records",
    metadata,
    row_id(),
    Column("owner_id", ForeignKey("vault_owners.owner_id"), nullable=False),
    Column("name", text_key(64), nullable=False),
    Column("newest", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("owner_id", "name"),
    sqlite_autoincrement=True,
)

# Versions of records, as their newest statement (`number`, SHA-256 `head`) says, and what the store counts and notes of them.
# `key_digest`: SHA-256 of the public half, or the check value of a secret key. `held`: a backup was restored, so counts and
# statements since it was made are not known. `ended_at`: the end of the term was observed. `term_from`: from when to
# `not_after` thresholds are placed, the next of which is passed at `due_at`. `told_uses`: the maximum whose crossing was
# announced.
vault_versions = Table(
    "vault_versions",
    metadata,
    row_id(),
    Column("record_id", ForeignKey("vault_records.id"), nullable=False),
    Column("owner_id", ForeignKey("vault_owners.owner_id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("key_digest", LargeBinary(32), nullable=False),
    Column("suite", String(64), nullable=False),
    Column("management_id", ForeignKey("vault_management_keys.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("head", LargeBinary(32), nullable=False),
    Column(
        "standing",
        String(16),
        CheckConstraint("standing IN ('live', 'revoked', 'compromised', 'destroyed')", name="known_standing"),
        nullable=False,
    ),
    Column("reason", String(256), nullable=False),
    Column("compromised_at", UtcDateTime, nullable=True),
    Column("suspended_at", UtcDateTime, nullable=True),
    Column("suspended_reason", String(256), nullable=False),
    Column("held", Boolean, nullable=False),
    Column("not_before", UtcDateTime, nullable=True),
    Column("not_after", UtcDateTime, nullable=True),
    Column("ended_at", UtcDateTime, nullable=True),
    Column("term_from", UtcDateTime, nullable=True),
    Column("due_at", UtcDateTime, nullable=True, index=True),
    Column("mode", String(8), nullable=False),
    Column("max_uses", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("released", BigInteger, CheckConstraint("released <= requests", name="counted"), nullable=False),
    Column("told_uses", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("spki", LargeBinary, nullable=False),
    UniqueConstraint("record_id", "version"),
    Index("ix_vault_versions_owner_id_key_digest", "owner_id", "key_digest"),
    sqlite_autoincrement=True,
)
_SEALED = text("standing <> 'destroyed'")
Index(
    "ix_vault_versions_management_id",
    vault_versions.c.management_id,
    vault_versions.c.id,
    sqlite_where=_SEALED,
    postgresql_where=_SEALED,
)

# The envelope of a version until that is destroyed; apart, so that counting does not write it again.
vault_envelopes = Table(
    "vault_envelopes",
    metadata,
    Column("version_id", ForeignKey("vault_versions.id"), primary_key=True, autoincrement=False),
    Column("envelope", LargeBinary, nullable=False),
)

# All statements of a version. `signer`: SHA-256 of the statement about the management key that signed.
vault_statements = Table(
    "vault_statements",
    metadata,
    Column("version_id", ForeignKey("vault_versions.id"), primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("text", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("signer", LargeBinary(32), nullable=False),
)

# Clients that may check keys of an owner, beside those with the role if `vault_owners.checkers` is set.
vault_allowed = Table(
    "vault_allowed",
    metadata,
    Column("owner_id", ForeignKey("vault_owners.owner_id"), primary_key=True, autoincrement=False),
    Column(
        "client_id",
        ForeignKey("clients.id", ondelete="CASCADE"),
        primary_key=True,
        index=True,
        autoincrement=False,
    ),
    Column("since", UtcDateTime, nullable=False),
)

# Who asked how often about an owner's keys, by day (UTC). Rows stay when the asker is removed.
vault_check_sums = Table(
    "vault_check_sums",
    metadata,
    row_id(),
    Column("owner_id", ForeignKey("vault_owners.owner_id"), nullable=False),
    Column("day", text_key(10), nullable=False, index=True),
    Column("asker_id", Integer, nullable=False),
    Column("asker", String(64), nullable=False),
    Column("record", text_key(64), nullable=False),
    Column("verdict", text_key(16), nullable=False),
    Column("checks", BigInteger, nullable=False),
    Column("first_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    UniqueConstraint("owner_id", "day", "asker_id", "record", "verdict"),
    Index("ix_vault_check_sums_owner_id_id", "owner_id", "id"),
    sqlite_autoincrement=True,
)

# Acquisitions that were counted, until their daemon (`origin` is its log) has them in its log, as `counted_uses`. `request` is
# the number of the request for this version, `released` that of the release; 0 if it was refused for the reason `refusal`.
vault_acquisitions = Table(
    "vault_acquisitions",
    metadata,
    Column("version_id", Integer, primary_key=True, autoincrement=False),
    Column("request", BigInteger, primary_key=True, autoincrement=False),
    Column("released", BigInteger, nullable=False),
    Column("refusal", String(32), nullable=False),
    Column("origin", text_key(128), nullable=False),
    Column("ticket", String(64), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("record", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("counted_at", UtcDateTime, nullable=False),
)
