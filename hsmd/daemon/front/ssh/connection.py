"""One SSH connection: who is it, and up to so many session channels with the subsystem `hsmd` and nothing else.

asyncssh checks a certificate's CA, validity and principals only loosely: it takes an empty principal list for any user, tells
the application neither principals nor serial, and verifies signatures with SHA-1 whatever it announces. So we decode what the
peer shows ourselves, put it before the snapshot, and only then let asyncssh check certificate and signature. The private
methods hooked for that are looked up when a connection is made: if asyncssh renames one, nobody gets in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import asyncssh
from asyncssh.packet import String
from asyncssh.public_key import decode_ssh_certificate, decode_ssh_public_key

from hsmd import observe
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.front.ssh.admission import Admission
from hsmd.daemon.front.ssh.enrolment import MAX_AT_ONCE, TALK_S, EnrolmentChannel, Enrolments
from hsmd.daemon.front.ssh.flow import Flow
from hsmd.daemon.front.ssh.session import UNREAD_S, Session, Transport
from hsmd.daemon.front.ssh.source_penalties import LEFT_S, LOGIN_FAILED_S, LOGIN_TIMED_OUT_S
from hsmd.protocol.enrolment import USER as ENROLMENT_USER
from hsmd.protocol.roles import Role
from hsmd.system.ssh_profile import (
    SUBSYSTEM,
    ValidateKey,
    certificate_terms,
    guard_login,
    refuse_environment,
    requested_user,
    without_ignore_packets,
)

log = observe.logger()

SIGNATURE_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-256",
    "rsa-sha2-512",
)
"""What we announce."""
_ACCEPTED = frozenset(SIGNATURE_ALGORITHMS) | {
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
}
"""And what may be under a request to log in, or a certificate: certified keys can be in a hardware token of their own."""
_WEAK = "signed with an algorithm that is not accepted"

MakeSession = Callable[[Identity, Transport], Session]


class SshConnection(asyncssh.SSHServer):
    """Authentication, admission and channels of one connection; asyncssh calls most of it."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        admission: Admission,
        make_session: MakeSession,
        connections: set[SshConnection],
        enrolments: Enrolments | None = None,
        roles: frozenset[Role] = frozenset(Role),
    ) -> None:
        self._snapshot = snapshot
        self._admission = admission
        self._make_session = make_session
        self._connections = connections
        self._enrolments = enrolments
        self._roles = roles
        self._password = ""
        self._admitted_as = ""
        self._identity: Identity | None = None
        self._proven: Identity | None = None
        self._asked = False
        self._tries = 0
        self._may_start = False
        self._began = time.monotonic()
        self._refused = ""
        self.peer = ""
        self.channels: set[SshChannel] = set()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self.peer = str((conn.get_extra_info("peername") or ("",))[0])  # nobody, if the peer has gone already
        without_ignore_packets(conn)
        guard_login(conn, admit_try=self._admit_try, validate_with=self._validate_with)
        self._flow = Flow(conn, self.drop)
        self._may_start = self._admission.may_start(self)
        if not self._may_start:
            conn.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not isinstance(exc, asyncssh.Error | OSError):
            log.error("connection.fault", address=self.peer, exc_info=exc)
        if self._admitted_as:
            self._admission.ended(self._admitted_as, self.peer)
            self._connections.discard(self)
            log.info("connection.closed", client=self._admitted_as, address=self.peer)
            return
        self._admission.stopped(self)
        if self._may_start and self._proven is None:
            self._count_offence()
        if self._refused:
            client = requested_user(self._conn)[:64]
            log.warning("connection.refused", address=self.peer, client=client, reason=self._refused)

    def _count_offence(self) -> None:
        """The peer did not log in: it failed, had no time left, or went away."""
        seconds = LEFT_S
        if self._refused:
            seconds = LOGIN_FAILED_S
        elif time.monotonic() - self._began > self._admission.limits.login_s - 0.5:
            seconds = LOGIN_TIMED_OUT_S
        if self._admission.offended(self, seconds):
            log.warning("source.penalised", address=self.peer, reason="failed or unfinished logins")

    # --- what the listener calls ---

    def disconnect(self, reason: str) -> None:
        """Say why, and close."""
        self._conn.disconnect(asyncssh.DISC_BY_APPLICATION, reason)

    def drop(self, reason: str) -> None:
        """Close at once, whatever the peer has not read yet."""
        self._may_start = False
        log.warning("connection.dropped", address=self.peer, reason=reason)
        self._conn.abort()

    def recheck(self) -> None:
        """Close if the snapshot no longer knows the client by the credential it came with."""
        if self._identity is not None and not self._snapshot().knows(self._identity):
            self.disconnect("credential withdrawn")

    def check(self, now: float) -> None:
        """Close if the certificate has ended, or if the peer leaves too much unread for too long (`now`: monotonic)."""
        unread_since = self._flow.unread_since
        if unread_since is not None and now - unread_since > UNREAD_S:
            self.drop("answers were left unread for too long")
        elif self._identity is not None and self._identity.expired(datetime.now(UTC)):
            self.disconnect("the certificate has ended")

    # --- authentication ---

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Yes, as far as asyncssh is concerned: `_validate_with` has asked the snapshot before."""
        return True

    def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """As `validate_public_key`; asyncssh goes on to check the certificate's type and validity itself."""
        return True

    def auth_completed(self) -> None:
        """asyncssh let somebody in; believe it only for an identity that was proven by a signature, for this user name."""
        identity = self._proven
        if self._password:
            self._begin_enrolment()
            return
        if identity is None or identity.client != self._conn.get_extra_info("username"):
            self._refused = self._refused or "not proven"
        elif not self._snapshot().knows(identity):
            self._refused = "credential withdrawn"
        elif not self._admission.started(self, identity.client):
            self._refused = "too many connections"
        else:
            self._identity = identity
            self._admitted_as = identity.client
            self._connections.add(self)
            log.info(
                "connection.opened",
                client=identity.client,
                address=self.peer,
                fingerprint=identity.credential,
            )
            return
        self._conn.abort()

    # --- enrolment (docs/protocol.md, section 8): a token instead of a key, and one question instead of sessions ---

    def begin_auth(self, username: str) -> bool:
        self._password = ""
        return True

    def password_auth_supported(self) -> bool:
        return self._enrolments is not None and requested_user(self._conn) == ENROLMENT_USER

    async def validate_password(self, username: str, password: str) -> bool:
        if self._enrolments is None or username != ENROLMENT_USER:
            return False
        good = await self._enrolments.admit(password, self.peer, self._roles)
        self._password = password if good and requested_user(self._conn) == ENROLMENT_USER else ""
        self._refused = "" if self._password else "no such enrolment"
        return bool(self._password)

    def _begin_enrolment(self) -> None:
        others = sum(bool(connection._password) for connection in self._connections)
        if self._conn.get_extra_info("username") != ENROLMENT_USER or others >= MAX_AT_ONCE:
            self._refused = "too many enrolments at once"
        elif not self._admission.started(self, ENROLMENT_USER):
            self._refused = "too many connections"
        else:
            self._admitted_as = ENROLMENT_USER
            self._connections.add(self)
            log.info("connection.opened", client=ENROLMENT_USER, address=self.peer)
            asyncio.get_running_loop().call_later(TALK_S, self._conn.abort)
            return
        self._conn.abort()

    def _enrolment_channel(self) -> EnrolmentChannel | bool:
        """One, once."""
        enrolments, password = self._enrolments, self._password
        if enrolments is None or self._asked:
            return False
        self._asked = True
        return EnrolmentChannel(lambda line: enrolments.answer(password, line, self.peer))

    def _admit_try(self) -> bool:
        """Count a request to log in; close the connection when there were too many."""
        self._tries += 1
        if self._tries <= self._admission.limits.auth_tries:
            return True
        self._refused = "too many tries to log in"
        self._conn.abort()
        return False

    def _validate_with(self, validate_key: ValidateKey) -> ValidateKey:
        """Key validation that checks key or certificate against the snapshot before asyncssh does its part."""

        async def validate_known(username: str, key_data: bytes, message: bytes, signature: bytes) -> bool:
            self._proven = None
            identity = self._identify(username, key_data)
            if identity is not None and identity.role not in self._roles:
                self._refused, identity = "not at this address with this role", None
            if identity is not None and message and _signed_with(signature) not in _ACCEPTED:
                self._refused, identity = _WEAK, None
            if identity is None:
                return False
            if not await validate_key(username, key_data, message, signature):
                self._refused = "the signature does not verify" if message else self._refused
                return False
            if message:  # without one it was only asked whether the key would do
                self._proven = identity
            return True

        return validate_known

    def _identify(self, username: str, key_data: bytes) -> Identity | None:
        """Whom the key or certificate stands for if the peer can sign with it."""
        try:
            return self._identify_certificate(username, decode_ssh_certificate(key_data), key_data)
        except asyncssh.KeyImportError:  # also for a plain key, which is looked at next
            self._refused = "unreadable certificate, or one with an unknown critical option"
        try:
            key = decode_ssh_public_key(key_data)
        except asyncssh.KeyImportError:
            return None
        identity = self._snapshot().identify_key(username, key.get_fingerprint())
        self._refused = "no such client with this key" if identity is None else ""
        return identity

    def _identify_certificate(self, username: str, certificate: Any, blob: bytes) -> Identity | None:
        if certificate.is_x509_chain:
            self._refused = "X.509 certificate"
            return None
        if _signed_with(_signature_of(certificate, blob)) not in _ACCEPTED:
            self._refused = _WEAK
            return None
        terms = certificate_terms(certificate)
        decision = self._snapshot().identify_certificate(
            username,
            ca_fingerprint=certificate.signing_key.get_fingerprint(),
            principals=tuple(certificate.principals),
            critical_options={
                name: value for name, value in certificate.options.items() if name in _CRITICAL
            },
            valid_after=_moment(terms.valid_after),
            valid_before=_moment(terms.valid_before),
            serial=terms.serial,
            key_id=terms.key_id,
            key_fingerprint=certificate.key.get_fingerprint(),
            peer_address=self.peer,
            now=datetime.now(UTC),
        )
        if isinstance(decision, Identity):
            self._refused = ""
            return decision
        self._refused = decision.rule.value
        return None

    # --- channels ---

    def session_requested(self) -> asyncssh.SSHServerSession[bytes] | bool:
        if self._password:
            return self._enrolment_channel()
        if self._identity is None or len(self.channels) >= self._admission.limits.channels_per_connection:
            return False
        channel = SshChannel(self)
        self.channels.add(channel)
        return channel

    def open_session(self, transport: Transport) -> Session:
        """The session of a channel that asked for our subsystem."""
        assert self._identity is not None
        return self._make_session(self._identity, transport)


_CRITICAL = frozenset({"force-command", "source-address"})
"""What asyncssh knows as critical options; a certificate with any other it does not even decode."""
_FOREVER = datetime.max.replace(tzinfo=UTC)


def _signature_of(certificate: Any, blob: bytes) -> bytes:
    """What stands behind the CA's key, at the end of a certificate whose signature has been verified."""
    return _string(blob.rpartition(String(certificate.signing_key.public_data))[2])


def _signed_with(signature: bytes) -> str:
    """The algorithm that a signature names; empty for what is none."""
    return _string(signature).decode("ascii", "replace")


def _string(data: bytes) -> bytes:
    """The string that begins here (RFC 4251, section 5); empty if it is not complete."""
    end = 4 + int.from_bytes(data[:4])
    return data[4:end] if end <= len(data) else b""


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return _FOREVER


class SshChannel(asyncssh.SSHServerSession[bytes]):
    """One session channel; it becomes a `Session` when the subsystem is asked for, and accepts nothing else.

    It is that session's `Transport` as well.
    """

    def __init__(self, connection: SshConnection) -> None:
        self._connection = connection
        self._session: Session | None = None

    def connection_made(self, chan: Any) -> None:
        self.write = chan.write
        self.pause_reading = chan.pause_reading
        self.resume_reading = chan.resume_reading
        self.close = chan.close
        refuse_environment(chan)

    def abort(self) -> None:
        """A channel closes when its peer agrees; one that must be dropped takes the connection along."""
        self._connection.drop("a session was dropped")

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == SUBSYSTEM

    def session_started(self) -> None:
        self._session = self._connection.open_session(self)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._session is not None and datatype is None:
            self._session.received(data)

    def eof_received(self) -> bool:
        """Stay open for answers: a peer that has asked everything may say so."""
        return True

    def pause_writing(self) -> None:
        if self._session is not None:
            self._session.pause_writing()

    def resume_writing(self) -> None:
        if self._session is not None:
            self._session.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.channels.discard(self)
        if self._session is not None:
            self._session.lost()
