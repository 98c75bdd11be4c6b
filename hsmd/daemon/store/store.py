"""The store's face: each method is one transaction in the caller's thread and raises errors of hsmd only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, select, update

from hsmd.daemon.store import (
    audit_rows,
    client_rows,
    enrolment_rows,
    grant_rows,
    key_rows,
    login_rows,
    portable,
    revocation_rows,
    rotation_rows,
)
from hsmd.daemon.store.engine import begin_immediately, open_engine, parse_url, translated
from hsmd.daemon.store.migrate import migrate, newest_revision, revision_of
from hsmd.daemon.store.records import (
    DAY_S,
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
    is_name,
)
from hsmd.daemon.store.tables import state
from hsmd.errors import BadRequest, Conflict, NotFound, StoreFailure
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose

T = TypeVar("T")

_TAKEN = "it was made by somebody else just now; look at it again"


class Store:
    """Keys, certificates, clients, CAs and grants.

    Thread-safe. Unknown names raise NotFound, duplicates Conflict, an unreachable, unmigrated or damaged
    database StoreFailure. Every write waits for the one before it, also of other daemons.
    """

    def __init__(self, url: str) -> None:
        """`url` is `sqlite:////path/of/file` or `postgresql+psycopg://...`. Connects on first use.

        Raises ConfigurationError, which does not repeat the URL.
        """
        self._url = parse_url(url)
        self._engine = open_engine(self._url)
        postgresql = self._engine.dialect.name == "postgresql"
        reading = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if postgresql else {}
        self._reader = self._engine.execution_options(**reading)

    def __repr__(self) -> str:
        return f"<Store {self._url.drivername}>"

    def migrate(self) -> None:
        """Bring the schema up to this release's; does nothing if it is there already."""
        with translated(self._url):
            migrate(self._engine, self._path)

    @property
    def _path(self) -> Path | None:
        return None if self._engine.dialect.name == "postgresql" else Path(str(self._url.database))

    def close(self) -> None:
        """Close all connections; the store may be used again, and then reconnects."""
        self._engine.dispose()

    def version(self) -> int:
        """A number that changes with every write, also of other daemons."""
        with self._read() as connection:
            return _version(connection)

    def load(self) -> Contents:
        """Everything, from one consistent read."""
        with self._read() as connection:
            return Contents(
                version=_version(connection),
                keys=tuple(key_rows.load_all(connection)),
                certificates=tuple(key_rows.load_certificates(connection)),
                clients=tuple(client_rows.load_all(connection)),
                cas=tuple(client_rows.load_cas(connection)),
                grants=tuple(grant_rows.load_all(connection)),
                owners=tuple(audit_rows.load_owners(connection)),
                revocations=tuple(revocation_rows.load_all(connection)),
            )

    # --- keys and certificates ---

    def add_key(self, key: KeyRecord) -> None:
        """Raises BadRequest for a name or ceiling that no key may have, Conflict if name or key is there."""
        with self._write() as connection:
            key_rows.add(connection, key)

    def key(self, name: str) -> KeyRecord:
        """Raises NotFound."""
        with self._read() as connection:
            return key_rows.by_name(connection, _lookup(name))

    def key_by_digest(self, digest: bytes) -> KeyRecord:
        """Raises NotFound."""
        with self._read() as connection:
            return key_rows.by_digest(connection, digest)

    def list_keys(self, after: str, limit: int, digests: Collection[bytes] | None = None) -> Page[KeyRecord]:
        """Keys in the order of names, behind `after` ("" for the first); all, or those of these digests."""
        with self._read() as connection:
            return _page(key_rows.page(connection, _after(after), limit + 1, digests), limit)

    def remove_key(self, name: str) -> None:
        """Certificate and grants go with it. Raises NotFound."""
        with self._write() as connection:
            key_rows.remove(connection, _lookup(name))

    def rename_key(self, name: str, new_name: str) -> None:
        """Certificate and grants stay with the key. Raises NotFound, BadRequest, Conflict if the name is taken."""
        with self._write() as connection:
            key_rows.rename(connection, _lookup(name), new_name)

    def set_certificate(self, key_name: str, chain_pem: str, not_after: datetime) -> None:
        """Store the chain of a key in the place of what was there. Raises NotFound."""
        with self._write() as connection:
            key_rows.set_certificate(connection, _lookup(key_name), chain_pem, not_after)

    def certificate(self, key_name: str) -> CertificateRecord:
        """Raises NotFound for an unknown key, and for one without a certificate."""
        with self._read() as connection:
            return key_rows.certificate(connection, _lookup(key_name))

    # --- clients and CAs ---

    def add_client(
        self, name: str, role: Role, now: datetime, credential: CredentialRecord | None = None
    ) -> None:
        """A new client, in the same transaction with its first credential if there is one.

        Raises BadRequest for a name that no client may have, Conflict if the name or the credential is taken.
        """
        with self._write() as connection:
            client_rows.add(connection, name, role, now)
            if credential is not None:
                client_rows.add_credential(connection, name, credential)

    def add_credential(self, client: str, fingerprint: str, public_key_line: str) -> None:
        """Raises NotFound, and Conflict if this or another client comes with that key already."""
        with self._write() as connection:
            client_rows.add_credential(
                connection, _lookup(client), CredentialRecord(fingerprint, public_key_line)
            )

    def client(self, name: str) -> ClientRecord:
        """Raises NotFound."""
        with self._read() as connection:
            return client_rows.record(connection, _lookup(name))

    def list_clients(self, after: str, limit: int) -> Page[ClientRecord]:
        """Clients in the order of their names, behind `after` ("" for the first)."""
        with self._read() as connection:
            return _page(client_rows.page(connection, _after(after), limit + 1), limit)

    def remove_client(self, name: str) -> None:
        """Credentials, grants and trust in CAs go with it. Raises NotFound."""
        with self._write() as connection:
            client_rows.remove(connection, _lookup(name))

    def rename_client(self, name: str, new_name: str) -> None:
        """Credentials, grants and trust in CAs stay with the client.

        Raises NotFound, BadRequest, Conflict if the new name is taken.
        """
        with self._write() as connection:
            client_rows.rename(connection, _lookup(name), new_name)

    def trust_ca(
        self, fingerprint: str, public_key_line: str, clients: Iterable[str], max_lifetime_s: int = DAY_S
    ) -> None:
        """Accept certificates of this CA for exactly these clients from now on; an empty list ends the trust.

        A certificate that is valid for more than `max_lifetime_s` in all is refused, unless that is 0.
        Raises NotFound if one of the clients is unknown.
        """
        names = frozenset(_lookup(name) for name in clients)
        with self._write() as connection:
            client_rows.trust_ca(connection, fingerprint, public_key_line, names, max_lifetime_s)

    def distrust_ca(self, fingerprint: str) -> None:
        """Accept no certificates of this CA any more. Raises NotFound."""
        with self._write() as connection:
            client_rows.distrust_ca(connection, fingerprint)

    def revoke(self, revocation: RevocationRecord) -> bool:
        """Refuse a credential from now on, for ever; whether that is new. A key takes the next one it named along.

        Raises BadRequest.
        """
        with self._write() as connection:
            if revocation.kind == "key":
                rotation_rows.revoked(connection, revocation.value)
            return revocation_rows.add(connection, revocation)

    def list_revocations(self) -> list[RevocationRecord]:
        """All of them, in the order of kind, CA and value."""
        with self._read() as connection:
            return revocation_rows.load_all(connection)

    def begin_rotation(self, client: str, current: str, successor: CredentialRecord) -> bool:
        """A client that comes with the key `current` (fingerprint) will come with another; whether that is new.

        Raises NotFound, Refused if the client has `current` no more, BadRequest for a successor that was revoked, Conflict if
        there is another successor already or the key is somebody's.
        """
        with self._write() as connection:
            return rotation_rows.begin(connection, _lookup(client), current, successor)

    def finish_rotation(self, client: str, current: str) -> bool:
        """Take away the key that `current` is the successor of; was there any? Raises NotFound."""
        with self._write() as connection:
            return rotation_rows.finish(connection, _lookup(client), current)

    # --- enrolment ---

    def add_enrolment(self, enrolment: EnrolmentRecord, now: datetime) -> None:
        """A one-time token for a client, in the place of any that it had. Raises NotFound."""
        with self._write() as connection:
            enrolment_rows.add(connection, enrolment, now)

    def invite(
        self,
        enrolment: EnrolmentRecord,
        role: Role,
        grants: Iterable[tuple[str, frozenset[Purpose]]],
        now: datetime,
    ) -> None:
        """As `add_enrolment`, with the client if there is none of that name, and with grants (key, purposes); or nothing of it.

        Raises Conflict if the client has another role, and what `add_client` and `add_grant` raise.
        """
        with self._write() as connection:
            client_rows.add_unless_there(connection, enrolment.client, role, now)
            for key, purposes in grants:
                grant_rows.add(connection, enrolment.client, _lookup(key), purposes)
            enrolment_rows.add(connection, enrolment, now)

    def check_enrolment(
        self,
        enrolment_id: str,
        secret_sha256: bytes,
        now: datetime,
        roles: Collection[Role] = frozenset(Role),
    ) -> bool:
        """Whether a token may be used now by a client of one of these roles; each call is one of its tries.

        Strangers cause these calls: they do not count as a change of the contents.
        """
        with self._unnoticed() as connection:
            return enrolment_rows.check(connection, enrolment_id, secret_sha256, now, roles)

    def enrol(
        self, enrolment_id: str, secret_sha256: bytes, credential: CredentialRecord, now: datetime
    ) -> ClientRecord:
        """Use a token up: its client comes with this key too from now on.

        Raises NotFound if it cannot be used (any more), Conflict if a client comes with that key already; the
        token is still good then.
        """
        with self._write() as connection:
            client = enrolment_rows.spend(connection, enrolment_id, secret_sha256, now)
            if client is None:
                raise NotFound("no such enrolment")
            client_rows.add_credential(connection, client, credential)
            return client_rows.record(connection, client)

    # --- grants ---

    def add_grant(self, client: str, key: str, purposes: Iterable[Purpose]) -> GrantRecord:
        """Grant these purposes too; gives all that the client now has on the key.

        Raises NotFound, BadRequest (no front end; purposes outside the ceiling or not grantable).
        """
        with self._write() as connection:
            return grant_rows.add(connection, _lookup(client), _lookup(key), frozenset(purposes))

    def remove_grant(self, client: str, key: str, purposes: Iterable[Purpose] = ()) -> bool:
        """Take these purposes back, all if none is named; was there anything to take? Raises NotFound."""
        with self._write() as connection:
            return grant_rows.remove(connection, _lookup(client), _lookup(key), frozenset(purposes))

    def list_grants(self, client: str, key: str, after: str, limit: int) -> Page[GrantRecord]:
        """Grants in the order of client and key, of all or of one client or key ("" for all).

        `after` is "client/key" of the last grant seen, "" for the first page. Raises BadRequest if it is not,
        NotFound for an unknown client or key.
        """
        position = _grant_position(after)
        with self._read() as connection:
            if client:
                client_rows.find_id(connection, _lookup(client))
            if key:
                key_rows.find_id(connection, _lookup(key))
            return _page(grant_rows.page(connection, client, key, position, limit + 1), limit)

    # --- logins to tokens ---

    def login_stops(self) -> list[LoginStop]:
        """The tokens to which nobody may log in."""
        with self._read() as connection:
            return login_rows.stops(connection)

    def claim_login(self, token: str, holder: str, now: datetime, hold: timedelta) -> LoginClaim:
        """Ask for the turn to log in to a token; for `hold` no other holder gets it, unless `release_login` ends it.

        A claim that is not granted writes nothing, so that waiting for one's turn does not move the version.
        """
        with self._read() as connection:
            found = login_rows.look(connection, token, holder, now)
        if not found.granted:
            return found
        with self._write() as connection:
            return login_rows.claim(connection, token, holder, now, hold)

    def release_login(self, token: str, holder: str, *, cleared: bool = False) -> None:
        """The turn is over. `cleared` gives an operator's leave back that was not used up."""
        with self._write() as connection:
            login_rows.release(connection, token, holder, cleared=cleared)

    def stop_logins(self, stop: LoginStop) -> None:
        """Nobody may log in any more until `clear_logins`; ends any claim."""
        with self._write() as connection:
            login_rows.stop(connection, stop)

    def clear_logins(self, token: str) -> None:
        """Logins may be tried again; the next one in spite of the token's warnings. Raises NotFound if none are stopped."""
        with self._write() as connection:
            login_rows.clear(connection, token)

    # --- audit logs and their readers ---

    def audit_head(self, origin: str) -> AuditHead | None:
        """The newest state known of the log of this origin, None if none is."""
        with self._read() as connection:
            return audit_rows.head(connection, origin)

    def advance_audit_head(self, head: AuditHead) -> None:
        """Remember a newer state of a log; an older one changes nothing. Not a change that `version` counts."""
        with translated(self._url, conflict=_TAKEN), self._engine.begin() as connection:
            audit_rows.advance_head(connection, head)

    def declare_discontinuity(self, head: AuditHead, declared: str, note: str) -> None:
        """Remember this state in place of whatever was known, and the operator's note. Raises Conflict for an old note."""
        with self._write() as connection:
            audit_rows.add_discontinuity(connection, head, declared, note)

    def discontinuities(self, origin: str) -> list[str]:
        """The notes about the log of this origin, the newest last."""
        with self._read() as connection:
            return audit_rows.discontinuities(connection, origin)

    def add_key_owner(self, key: str, client: str) -> bool:
        """Let a client read all records about a key; was that new? Raises NotFound."""
        with self._write() as connection:
            return audit_rows.add_owner(connection, _lookup(key), _lookup(client))

    def remove_key_owner(self, key: str, client: str) -> bool:
        """Take that back; was there anything to take? Raises NotFound."""
        with self._write() as connection:
            return audit_rows.remove_owner(connection, _lookup(key), _lookup(client))

    def key_owners(self) -> tuple[OwnerRecord, ...]:
        """All owners in the order of keys and clients."""
        with self._read() as connection:
            return tuple(audit_rows.load_owners(connection))

    # --- backup ---

    def export(self) -> bytes:
        """Every row, from one consistent read, in a form that either database can be filled from (portable.py)."""
        with self._read() as connection:
            return portable.export(connection, revision_of(connection) or "")

    def restore(self, document: bytes) -> None:
        """Fill a database that has no store yet, and bring it up to this release.

        Raises StoreFailure for a damaged document or one of a newer release, Conflict if there is a store already.
        """
        content = portable.decode(document)
        if content.revision > newest_revision():
            raise StoreFailure("the backup was made by a newer release of hsmd; install that release")
        with translated(self._url):
            migrate(self._engine, self._path, content.revision)
            with self._engine.connect() as connection, connection.begin():
                if revision_of(connection) != content.revision:
                    raise Conflict("the store is in use; restore into an empty database")
                portable.fill(connection, content)
        self.migrate()

    # --- transactions ---

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with translated(self._url), self._reader.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with translated(self._url, conflict=_TAKEN), self._engine.connect() as connection, connection.begin():
            _count_up(connection)
            yield connection

    @contextmanager
    def _unnoticed(self) -> Iterator[Connection]:
        """A write of something that is not among the contents."""
        with (
            translated(self._url),
            self._engine.connect() as connection,
            begin_immediately(connection).begin(),
        ):
            yield connection


def _count_up(connection: Connection) -> None:
    """First in every write: takes the lock of the only row, so that writes happen one after the other."""
    if connection.execute(update(state).values(version=state.c.version + 1)).rowcount != 1:
        raise StoreFailure("the store is damaged", detail="no version row")


def _version(connection: Connection) -> int:
    version: int | None = connection.scalar(select(state.c.version))
    if version is None:
        raise StoreFailure("the store is damaged", detail="no version row")
    return version


def _lookup(name: str) -> str:
    """A name to look for; what cannot be one (NUL, lone surrogates, ...) never reaches a database driver."""
    return name if is_name(name) else "?"


def _after(name: str) -> str:
    if name and not is_name(name):
        raise BadRequest("after: must be the last name of the page before, or empty")
    return name


def _grant_position(after: str) -> tuple[str, str]:
    client, separator, key = after.partition("/")
    if after and not (separator and is_name(client) and is_name(key)):
        raise BadRequest("after: must be client/key of the last grant of the page before, or empty")
    return client, key


def _page(items: list[T], limit: int) -> Page[T]:
    return Page(tuple(items[:limit]), len(items) > limit)
