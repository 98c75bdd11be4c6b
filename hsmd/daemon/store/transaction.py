"""One transaction on the store: an object per kind of row, all on the same connection."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from hsmd.daemon.store.audit_rows import AuditLogs
from hsmd.daemon.store.certificate_rows import Certificates
from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.enrolment_rows import Enrolments
from hsmd.daemon.store.grant_rows import Grants
from hsmd.daemon.store.key_rows import Keys
from hsmd.daemon.store.login_rows import Logins
from hsmd.daemon.store.owner_rows import KeyOwners
from hsmd.daemon.store.records import Contents
from hsmd.daemon.store.revocation_rows import Revocations
from hsmd.daemon.store.rotation_rows import Rotations
from hsmd.daemon.store.tables import state
from hsmd.daemon.store.user_ca_rows import UserCas
from hsmd.errors import StoreFailure


class Transaction:
    """What `Store.read` and `Store.write` give; not to be used after their block."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.keys = Keys(connection)
        self.certificates = Certificates(connection, self.keys)
        self.clients = Clients(connection)
        self.user_cas = UserCas(connection)
        self.grants = Grants(connection, self.clients, self.keys)
        self.owners = KeyOwners(connection, self.clients, self.keys)
        self.enrolments = Enrolments(connection, self.clients)
        self.rotations = Rotations(connection, self.clients)
        self.revocations = Revocations(connection, self.rotations)
        self.logins = Logins(connection)
        self.audit_logs = AuditLogs(connection)

    def version(self) -> int:
        """A number that each write of the contents changes, of every daemon that shares the store."""
        version: int | None = self.connection.scalar(select(state.c.version))
        if version is None:
            raise StoreFailure("the store is damaged", detail="no version row")
        return version

    def increment_version(self) -> None:
        """First statement of a write: locks the only row of its table, so that writes run one after the other."""
        if self.connection.execute(update(state).values(version=state.c.version + 1)).rowcount != 1:
            raise StoreFailure("the store is damaged", detail="no version row")

    def contents(self) -> Contents:
        """Everything that decisions and the snapshot need."""
        return Contents(
            version=self.version(),
            keys=tuple(self.keys.all()),
            certificates=tuple(self.certificates.all()),
            clients=tuple(self.clients.all()),
            user_cas=tuple(self.user_cas.all()),
            grants=tuple(self.grants.all()),
            owners=tuple(self.owners.all()),
            revocations=tuple(self.revocations.all()),
        )
