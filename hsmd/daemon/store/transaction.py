"""One transaction on the store: an object per kind of row, all on the same connection."""

from __future__ import annotations

from sqlalchemy import Connection

from hsmd.daemon.store import audience
from hsmd.daemon.store.audit_rows import AuditLogs
from hsmd.daemon.store.authority_rows import Authorities
from hsmd.daemon.store.certificate_rows import Certificates
from hsmd.daemon.store.change_notes import ChangeNotes
from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.contents import Contents, Difference, Standing
from hsmd.daemon.store.counted_use_rows import CountedUses
from hsmd.daemon.store.counter_rows import Counters
from hsmd.daemon.store.difference_rows import Differences, Pause, no_pause
from hsmd.daemon.store.endorsement_rows import StatementEndorsements
from hsmd.daemon.store.enrolment_rows import Enrolments
from hsmd.daemon.store.event_rows import Events
from hsmd.daemon.store.grant_rows import Grants
from hsmd.daemon.store.history_rows import KeyHistory
from hsmd.daemon.store.issued_rows import IssuedCertificates
from hsmd.daemon.store.key_rows import Keys
from hsmd.daemon.store.lease_rows import Leases
from hsmd.daemon.store.limited_grant_rows import LimitedGrants
from hsmd.daemon.store.lock_order import LockOrder
from hsmd.daemon.store.login_rows import Logins
from hsmd.daemon.store.permit_rows import Permits
from hsmd.daemon.store.reader_rows import KeyReaders
from hsmd.daemon.store.records import Readers
from hsmd.daemon.store.replacement_rows import Replacements
from hsmd.daemon.store.revocation_rows import Revocations
from hsmd.daemon.store.rotation_rows import Rotations
from hsmd.daemon.store.served_rows import ServedCertificates
from hsmd.daemon.store.state_row import StateRow
from hsmd.daemon.store.user_ca_rows import UserCas
from hsmd.daemon.store.vault_acquisition_rows import VaultAcquisitions
from hsmd.daemon.store.vault_announcement_rows import VaultAnnouncements
from hsmd.daemon.store.vault_check_sum_rows import VaultCheckSums
from hsmd.daemon.store.vault_checker_rows import VaultCheckers
from hsmd.daemon.store.vault_events import VaultEvents
from hsmd.daemon.store.vault_management_rows import VaultKeys
from hsmd.daemon.store.vault_owner_rows import VaultOwners
from hsmd.daemon.store.vault_record_rows import VaultRecords
from hsmd.daemon.store.vault_statement_rows import VaultStatements
from hsmd.daemon.store.vault_version_rows import VaultVersions


class Transaction:
    """What `Store.read` and `Store.write` give; not to be used after their block."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        order = LockOrder()
        self._state = StateRow(connection, order)
        self._notes = ChangeNotes(connection)
        self._version: int | None = None
        self.clients = Clients(connection, order)
        self.history = KeyHistory(connection)
        self.keys = Keys(connection, self.clients, self.history, order)
        self.certificates = Certificates(connection, self.keys)
        self.authorities = Authorities(connection, self.keys)
        self.issued = IssuedCertificates(connection, self.authorities, self.clients)
        self.permits = Permits(connection, self.authorities, self.clients, order)
        self.served = ServedCertificates(connection, self.clients, self.keys)
        self.user_cas = UserCas(connection)
        self.events = Events(connection, order)
        self.counted_uses = CountedUses(connection, order)
        self.limited_grants = LimitedGrants(
            connection, self.clients, self.keys, self.events, self.counted_uses, order
        )
        self.grants = Grants(connection, self.clients, self.keys, self.limited_grants)
        self.replacements = Replacements(connection, self.keys, self.limited_grants, self.served)
        self.readers = KeyReaders(connection, self.clients, self.keys, self.history)
        self.enrolments = Enrolments(connection, self.clients)
        self.rotations = Rotations(connection, self.clients)
        self.revocations = Revocations(connection, self.rotations)
        self.audit_logs = AuditLogs(connection)
        self.statement_endorsements = StatementEndorsements(connection)
        self.counters = Counters(connection, order)
        self.leases = Leases(connection, order)
        self.logins = Logins(connection, self._state, self.leases, self.counters)
        self._begin_vault(connection, order)

    def _begin_vault(self, connection: Connection, order: LockOrder) -> None:
        told = VaultEvents(connection, self.events)
        self.vault_owners = VaultOwners(connection, self.clients, order)
        self.vault_keys = VaultKeys(connection, self.vault_owners, told)
        self.vault_versions = VaultVersions(connection, self.vault_owners, order)
        self.vault_statements = VaultStatements(connection)
        self.vault_records = VaultRecords(
            connection, self.vault_owners, self.vault_keys, self.vault_versions, self.vault_statements, told
        )
        self.vault_announcements = VaultAnnouncements(connection, self.vault_versions, told)
        self.vault_acquisitions = VaultAcquisitions(
            connection, self.vault_versions, self.vault_statements, self.vault_announcements, told, order
        )
        self.vault_checkers = VaultCheckers(
            connection, self.clients, self.vault_owners, self.vault_versions, order
        )
        self.vault_check_sums = VaultCheckSums(connection, self.vault_owners)

    def audience_of_key(self, name: str) -> Readers:
        """The clients that an event about this key concerns. Raises NotFound."""
        return audience.of_key(self.connection, self.keys, name)

    def version(self) -> int:
        """A number that each write of the contents changes, of every daemon that shares the store."""
        return self._state.version()

    def begin(self, *, versioned: bool) -> None:
        """First step of a write; one of the contents is versioned, and waits for the previous one."""
        if versioned:
            self._version = self._state.increment()

    def finish(self) -> None:
        """Last step of a write but for `prune`, before the commit."""
        self.events.finish()
        self.counted_uses.finish()
        self.vault_acquisitions.finish()

    def prune(self) -> None:
        """Forget what changed long ago; last step of a write that has written something else."""
        if self._version is not None:
            self._notes.prune(self._version)

    def contents(self) -> Contents:
        """Everything that decisions and the snapshot need."""
        return Contents(
            version=self.version(),
            keys=tuple(self.keys.all()),
            certificates=tuple(self.certificates.all()),
            clients=tuple(self.clients.all()),
            user_cas=tuple(self.user_cas.all()),
            grants=tuple(self.grants.all()),
            limited_grants=tuple(self.limited_grants.all()),
            revocations=tuple(self.revocations.all()),
            statement_endorsements=tuple(self.statement_endorsements.all()),
            history_behind=self.history.behind,
        )

    def difference(self, known: Standing | None, pause: Pause = no_pause) -> Difference:
        """What is different from the contents at `known`; all rows if that is None, or too long ago to be remembered."""
        differences = Differences(
            self.connection,
            self._notes,
            self.clients,
            self.keys,
            self.history,
            self.limited_grants,
            self.statement_endorsements,
        )
        return differences.since(known, pause)
