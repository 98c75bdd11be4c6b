"""The store: keys, certificates, clients, user CAs, grants and the ledger in SQLite or PostgreSQL (SQLAlchemy, Alembic)."""

from hsmd.daemon.store.records import (
    AuditHead,
    CertificateRecord,
    ClientRecord,
    Contents,
    CredentialRecord,
    EnrolmentRecord,
    EventPage,
    EventRecord,
    Gap,
    GrantRecord,
    KeyRecord,
    Lease,
    LoginClaim,
    LoginStop,
    OwnerRecord,
    Page,
    Readers,
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
    "EventPage",
    "EventRecord",
    "Gap",
    "GrantRecord",
    "KeyRecord",
    "Lease",
    "LoginClaim",
    "LoginStop",
    "OwnerRecord",
    "Page",
    "Readers",
    "RevocationRecord",
    "Store",
    "Transaction",
    "UserCaRecord",
]
