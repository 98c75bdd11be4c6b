"""One SSH connection: its login, and a limited number of session channels for the subsystem `hsmd`.

Logins go through hooks into private methods of asyncssh, which are read when a connection is made: if asyncssh renames one, every
login fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from hsmd import observe
from hsmd.daemon.front.access.identification import Identities
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.ssh.admission import Admission
from hsmd.daemon.front.ssh.channel import Flow, SshChannel
from hsmd.daemon.front.ssh.credentials import WEAK_SIGNATURE, identify, signed_acceptably
from hsmd.daemon.front.ssh.enrolment import MAX_AT_ONCE, TALK_S, EnrolmentChannel, Enrolments
from hsmd.daemon.front.ssh.session import Session, Transport
from hsmd.daemon.front.ssh.source_penalties import LEFT_S, LOGIN_FAILED_S, LOGIN_TIMED_OUT_S
from hsmd.daemon.front.ssh.sources import source_of
from hsmd.daemon.front.ssh.tariff import LOGIN
from hsmd.protocol.enrolment import USER as ENROLMENT_USER
from hsmd.protocol.roles import Role
from hsmd.system.intake import Intake, Intakes
from hsmd.system.ssh_library import asyncssh
from hsmd.system.ssh_profile import (
    ValidateKey,
    forget_login,
    guard_login,
    keep_options,
    requested_user,
    session_identifier,
    without_ignore_packets,
)

log = observe.logger()

MakeSession = Callable[[Identity, Intake, Transport], Session]


class SshConnection(asyncssh.SSHServer):
    """Authentication, admission and channels of one connection. asyncssh calls most of the methods."""

    def __init__(
        self,
        identities: Callable[[], Identities],
        admission: Admission,
        make_session: MakeSession,
        connections: set[SshConnection],
        intakes: Intakes,
        enrolments: Enrolments | None = None,
        roles: frozenset[Role] = frozenset(Role),
    ) -> None:
        self._identities = identities
        self._admission = admission
        self._make_session = make_session
        self._connections = connections
        self._intakes = intakes
        self._intake: Intake | None = None
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
        self._channels: set[SshChannel] = set()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self.peer = str((conn.get_extra_info("peername") or ("",))[0])  # empty if the peer has gone already
        self._may_start = self._admission.may_start(self)
        if not self._may_start:
            conn.abort()
            return
        without_ignore_packets(conn)
        keep_options(conn)
        guard_login(conn, admit_try=self._admit_try, validate_with=self._validate_with)
        self._flow = Flow(conn, self.drop, self._channels, self._admission.turns, source_of(self.peer))

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not isinstance(exc, asyncssh.Error | OSError):
            log.error("connection.fault", address=self.peer, exc_info=exc)
        if self._admitted_as:
            self._admission.ended(self._admitted_as, self.peer)
            self._connections.discard(self)
            self._flow.lost()
            self._intakes.leave(self._admitted_as)
            log.info("connection.closed", client=self._admitted_as, address=self.peer)
            return
        self._admission.stopped(self)
        if self._may_start and self._proven is None:
            self._count_offence()
        if self._refused:
            client = requested_user(self._conn)[:64]
            log.warning("connection.refused", address=self.peer, client=client, reason=self._refused)

    def _count_offence(self) -> None:
        """Penalise the source: the peer's login failed, took too long, or was given up."""
        seconds = LEFT_S
        if self._refused:
            seconds = LOGIN_FAILED_S
        elif time.monotonic() - self._began > self._admission.limits.login_s - 0.5:
            seconds = LOGIN_TIMED_OUT_S
        if self._admission.offended(self, seconds):
            log.warning("source.penalised", address=self.peer, reason="failed or unfinished logins")

    # --- called by the listener ---

    def disconnect(self, reason: str) -> None:
        """Send the reason, and close."""
        self._conn.disconnect(asyncssh.DISC_BY_APPLICATION, reason)

    def drop(self, reason: str, *, blamed: bool = True) -> None:
        """Close at once, without sending what is still buffered; `blamed`: before the login it counts against its source."""
        self._may_start = self._may_start and blamed
        log.warning("connection.dropped", address=self.peer, reason=reason)
        self._conn.abort()

    def recheck(self) -> None:
        """Close if the store no longer knows the client by the credential of this connection."""
        if self._identity is not None and not self._identities().knows(self._identity):
            self.disconnect("credential withdrawn")

    def check(self, now: float) -> None:
        """Close if the certificate has ended, or if the peer has not read for too long (`now`: monotonic)."""
        if reason := self._flow.check(now):
            self.drop(reason)
        elif self._identity is not None and datetime.now(UTC) >= self._identity.expires_at:
            self.disconnect("the certificate has ended")

    # --- authentication ---

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Always true: `_validate_with` has checked the key against the snapshot before."""
        return True

    def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """As `validate_public_key`; asyncssh checks the certificate's type and validity itself afterwards."""
        return True

    def auth_completed(self) -> None:
        """Admit the client, if a signature has proven its identity for this user name; asyncssh alone is not believed."""
        identity = self._proven
        if self._password:
            self._begin_enrolment()
            return
        if identity is None or identity.client != self._conn.get_extra_info("username"):
            self._refused = self._refused or "not proven"
        elif not self._identities().knows(identity):
            self._refused = "credential withdrawn"
        elif not self._admission.started(self, identity.client):
            self._refused = "too many connections"
        else:
            self._identity = replace(identity, binding=session_identifier(self._conn))
            self._admit_as(identity.client)
            log.info(
                "connection.opened",
                client=identity.client,
                address=self.peer,
                fingerprint=identity.credential.text,
            )
            return
        self._conn.abort()

    def _admit_as(self, client: str) -> None:
        self._admitted_as = client
        self._intake = self._intakes.join(client)
        self._flow.admitted(self._intake)
        self._connections.add(self)
        forget_login(self._conn)

    # --- enrolment (docs/protocol.md, section 8): a token instead of a key, and one request instead of sessions ---

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
            self._admit_as(ENROLMENT_USER)
            log.info("connection.opened", client=ENROLMENT_USER, address=self.peer)
            asyncio.get_running_loop().call_later(TALK_S, self._conn.abort)
            return
        self._conn.abort()

    def _enrolment_channel(self) -> EnrolmentChannel | bool:
        """The channel, once for each connection; False after that."""
        enrolments, password = self._enrolments, self._password
        if enrolments is None or self._asked:
            return False
        self._asked = True
        return EnrolmentChannel(lambda line: enrolments.answer(password, line, self.peer))

    def _admit_try(self) -> bool:
        """Count a login request; close the connection after too many."""
        self._tries += 1
        if self._tries <= self._admission.limits.auth_tries:
            return True
        self._refused = "too many tries to log in"
        self._conn.abort()
        return False

    def _validate_with(self, validate_key: ValidateKey) -> ValidateKey:
        """Key validation that checks key or certificate against the snapshot before asyncssh checks the signature."""

        async def validate_known(username: str, key_data: bytes, message: bytes, signature: bytes) -> bool:
            self._proven = None
            identity = identify(self._identities(), username, key_data, self.peer)
            if isinstance(identity, Identity):
                identity = identity.at(self._roles)
                if not identity.roles:
                    identity = "not at this address with this role"
            if isinstance(identity, Identity) and message and not signed_acceptably(signature):
                identity = WEAK_SIGNATURE
            if isinstance(identity, str):
                self._refused = identity
                return False
            self._refused = ""
            if not await validate_key(username, key_data, message, signature):
                self._refused = "the signature does not verify" if message else self._refused
                return False
            if message:  # without one, the peer only asks whether the key would be accepted
                await self._pay_login(identity.client)
                self._proven = identity
            return True

        return validate_known

    async def _pay_login(self, client: str) -> None:
        """Charge a login to the account of its client, and wait until that is not overdrawn: logins of one delay no others."""
        intake = self._intakes.join(client)
        try:
            intake.spend(LOGIN)
            await intake.turn()
        finally:
            self._intakes.leave(client)

    # --- channels ---

    def session_requested(self) -> asyncssh.SSHServerSession[bytes] | Awaitable[SshChannel] | bool:
        if self._password:
            return self._enrolment_channel()
        if self._identity is None or self._intake is None:
            return False
        return self._channel_for(self._identity, self._intake)

    async def _channel_for(self, identity: Identity, intake: Intake) -> SshChannel:
        """A new channel of a client. Raises ChannelOpenError if the connection has as many as it may.

        asyncssh runs this in the turn of the event loop after the request. It answers a CLOSE (RFC 4254, section 5.3) at once but
        ends the channel in the next turn, and a peer that has read the answer may ask for another channel before that.
        """
        if len(self._channels) >= self._admission.limits.channels_per_connection:
            raise asyncssh.ChannelOpenError(
                asyncssh.constants.OPEN_RESOURCE_SHORTAGE, "the connection has too many channels"
            )
        channel = SshChannel(
            partial(self._make_session, identity, intake), self._flow, self.drop, self._channels.discard
        )
        self._channels.add(channel)
        return channel
