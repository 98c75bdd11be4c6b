"""The store: keys, certificates, clients, user CAs and grants in SQLite or PostgreSQL (SQLAlchemy, Alembic)."""

from hsmd.daemon.store.records import (
    AuditHead,
    CertificateRecord,
    ClientRecord,
    Contents,
    CredentialRecord,
    EnrolmentRecord,
    GrantRecord,
    KeyRecord,
    LoginClaim,
    LoginStop,
    OwnerRecord,
    Page,
    RevocationRecord,
    UserCaRecord,
)
from hsmd.daemon.store.store import Store
from hsmd.daemon.store.transaction import Transaction

__all__ = [
    "AuditHead",
    "CertificateRecord",
    "ClientRecord",
    "Contents",
    "CredentialRecord",
    "EnrolmentRecord",
    "GrantRecord",
    "KeyRecord",
    "LoginClaim",
    "LoginStop",
    "OwnerRecord",
    "Page",
    "RevocationRecord",
    "Store",
    "Transaction",
    "UserCaRecord",
]
