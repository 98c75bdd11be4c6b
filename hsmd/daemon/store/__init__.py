"""The store: keys, certificates, clients, CAs and grants in SQLite or PostgreSQL (SQLAlchemy, Alembic)."""

from hsmd.daemon.store.records import (
    CaRecord,
    CertificateRecord,
    ClientRecord,
    Contents,
    CredentialRecord,
    GrantRecord,
    KeyRecord,
    LoginClaim,
    LoginStop,
    Page,
    Role,
)
from hsmd.daemon.store.store import Store

__all__ = [
    "CaRecord",
    "CertificateRecord",
    "ClientRecord",
    "Contents",
    "CredentialRecord",
    "GrantRecord",
    "KeyRecord",
    "LoginClaim",
    "LoginStop",
    "Page",
    "Role",
    "Store",
]
