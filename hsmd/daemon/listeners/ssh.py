"""The SSH listener: public keys and user certificates in, subsystem `hsmd` and nothing else.

asyncssh checks a certificate's CA, validity and principals only loosely: it takes an empty principal list for any user, and
tells the application neither principals nor serial. So the whole certificate is put before `Snapshot.identify_certificate` first.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import asyncssh

from hsmd import observe
from hsmd.client.ssh_profile import (
    CIPHERS,
    KEX_ALGORITHMS,
    REKEY_SECONDS,
    SUBSYSTEM,
    WINDOW_BYTES,
    without_ignore_packets,
)
from hsmd.daemon.access.identity import Identity
from hsmd.daemon.access.snapshot import Snapshot
from hsmd.daemon.config import ListenAddress, ListenConfig
from hsmd.daemon.listeners.admission import Admission
from hsmd.daemon.listeners.session import Session, Transport
from hsmd.errors import ConfigurationError

SIGNATURE_ALGORITHMS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
                        "rsa-sha2-256", "rsa-sha2-512")  # fmt: skip
KEEPALIVE_S = 1.0
KEEPALIVE_MISSES = 3

log = observe.logger()

MakeSession = Callable[[Identity, Transport], Session]


class SshListener:
    """Accepts SSH connections on the configured addresses."""

    def __init__(
        self, *, snapshot: Callable[[], Snapshot], admission: Admission, make_session: MakeSession
    ) -> None:
        self._snapshot = snapshot
        self._admission = admission
        self._make_session = make_session
        self._acceptors: dict[ListenAddress, asyncssh.SSHAcceptor] = {}
        self._connections: set[_Connection] = set()
        self._host_key_line = ""

    @property
    def ports(self) -> list[ListenAddress]:
        """The addresses bound, with the ports the system chose where 0 was asked for."""
        return [ListenAddress(address.host, acceptor.get_port()) for address, acceptor in self._acceptors.items()]

    @property
    def host_key_line(self) -> str:
        """The public host key, as an OpenSSH line: what peers pin."""
        return self._host_key_line

    async def apply(self, config: ListenConfig) -> None:
        """Listen as `config` says: new addresses first, then the ones that are no longer wanted are closed.

        Raises ConfigurationError before anything changes if a host key cannot be used or an address not be bound.
        """
        host_key = _host_key(config)
        options = self._options(host_key)
        opened: dict[ListenAddress, asyncssh.SSHAcceptor] = {}
        for address in config.addresses:
            if address in self._acceptors:
                self._acceptors[address].update(**options)
                continue
            try:
                opened[address] = await asyncssh.listen(address.host, address.port, reuse_address=True, **options)
            except OSError as error:
                for acceptor in opened.values():
                    acceptor.close()
                fault = f"listen.addresses: cannot listen on {address}: {error.strerror}"
                raise ConfigurationError("hsmd.toml", [fault]) from None
        for address in [address for address in self._acceptors if address not in config.addresses]:
            self._acceptors.pop(address).close()
        self._acceptors |= opened
        key = host_key[0] if isinstance(host_key, tuple) else host_key
        self._host_key_line = " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])

    def stop_accepting(self) -> None:
        """Close the listening sockets; connections stay."""
        for acceptor in self._acceptors.values():
            acceptor.close()

    def close(self) -> None:
        """Drop every connection."""
        for connection in list(self._connections):
            connection.disconnect("the daemon stops")

    def drop_strangers(self) -> None:
        """Close the connections of clients that the snapshot no longer knows by the credential they came with."""
        for connection in list(self._connections):
            connection.recheck()

    def _options(self, host_key: Any) -> dict[str, Any]:
        return {
            "server_factory": lambda: _Connection(self._snapshot, self._admission, self._make_session, self._connections),
            "server_host_keys": [host_key],
            "encoding": None,
            "kex_algs": KEX_ALGORITHMS,
            "encryption_algs": CIPHERS,
            "compression_algs": ["none"],
            "signature_algs": SIGNATURE_ALGORITHMS,
            "password_auth": False,
            "kbdint_auth": False,
            "host_based_auth": False,
            "gss_host": None,
            "allow_pty": False,
            "line_editor": False,
            "agent_forwarding": False,
            "x11_forwarding": False,
            "allow_scp": False,
            "config": [],
            "login_timeout": self._admission.limits.login_s,
            "keepalive_interval": KEEPALIVE_S,
            "keepalive_count_max": KEEPALIVE_MISSES,
            "rekey_seconds": REKEY_SECONDS,
            "window": WINDOW_BYTES,
            "server_version": "hsmd",
        }


def _host_key(config: ListenConfig) -> Any:
    try:
        key = asyncssh.read_private_key(config.host_key)
        if config.host_certificate is None:
            return key
        return (key, asyncssh.read_certificate(config.host_certificate))
    except (OSError, asyncssh.KeyImportError) as error:
        fault = f"listen.host_key: {config.host_key} cannot be used: {error}; `hsmd init` makes one"
        raise ConfigurationError("hsmd.toml", [fault]) from None


class _Connection(asyncssh.SSHServer):
    """One SSH connection: authentication, then up to `channels_per_connection` sessions."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        admission: Admission,
        make_session: MakeSession,
        connections: set[_Connection],
    ) -> None:
        self._snapshot = snapshot
        self._admission = admission
        self._make_session = make_session
        self._connections = connections
        self._admitted = False
        self._candidate: Identity | None = None
        self._identity: Identity | None = None
        self._tries = 0
        self.channels: set[_Channel] = set()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._peer = conn.get_extra_info("peername")[0]
        self._admitted = self._admission.may_start()
        if not self._admitted:
            conn.abort()
            return
        without_ignore_packets(conn)
        self._check_whole_certificates(conn)
        conn.pause_writing = self._pause_writing  # type: ignore[method-assign]
        conn.resume_writing = self._resume_writing  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._identity is not None:
            self._admission.ended(self._identity.client)
            self._connections.discard(self)
            log.info("connection.closed", client=self._identity.client, address=self._peer)
        elif self._admitted:
            self._admission.stopped()

    def disconnect(self, reason: str) -> None:
        self._conn.disconnect(asyncssh.DISC_BY_APPLICATION, reason)

    # --- authentication ---

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self._candidate = None
        if self._too_many_tries():
            return False
        self._candidate = self._snapshot().identify_key(username, key.get_fingerprint())
        return self._candidate is not None

    def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Called for a certificate that `_validate_certificate` has found good."""
        return self._candidate is not None

    def auth_completed(self) -> None:
        identity = self._candidate
        if identity is None or identity.client != self._conn.get_extra_info("username"):
            self._conn.abort()
            return
        self._identity = identity
        self._connections.add(self)
        self._admission.started(identity.client)
        log.info("connection.opened", client=identity.client, address=self._peer, fingerprint=identity.credential)

    def recheck(self) -> None:
        if self._identity is not None and not self._snapshot().knows(self._identity):
            self.disconnect("credential withdrawn")

    def _check_whole_certificates(self, conn: Any) -> None:
        """Have our check run before asyncssh's own, which sees a certificate's principals and serial only itself."""
        inner = conn._validate_openssh_certificate

        async def validate(username: str, certificate: asyncssh.SSHOpenSSHCertificate) -> Any:
            self._candidate = None if self._too_many_tries() else self._identify(username, certificate)
            return await inner(username, certificate) if self._candidate is not None else None

        conn._validate_openssh_certificate = validate

    def _identify(self, username: str, certificate: Any) -> Identity | None:
        decision = self._snapshot().identify_certificate(
            username,
            ca_fingerprint=certificate.signing_key.get_fingerprint(),
            principals=tuple(certificate.principals),
            critical_options={name: value for name, value in certificate.options.items() if name in _CRITICAL},
            valid_after=_moment(certificate._valid_after),
            valid_before=_moment(certificate._valid_before),
            serial=certificate._serial,
            peer_address=self._peer,
            now=datetime.now(UTC),
        )
        if isinstance(decision, Identity):
            return decision
        log.info("connection.refused", address=self._peer, rule=decision.rule.value)
        return None

    def _too_many_tries(self) -> bool:
        self._tries += 1
        if self._tries <= self._admission.limits.auth_tries:
            return False
        self._conn.abort()
        return True

    # --- channels ---

    def session_requested(self) -> asyncssh.SSHServerSession[bytes] | bool:
        if self._identity is None or len(self.channels) >= self._admission.limits.channels_per_connection:
            return False
        channel = _Channel(self)
        self.channels.add(channel)
        return channel

    def open_session(self, transport: Transport) -> Session:
        assert self._identity is not None
        return self._make_session(self._identity, transport)

    def _pause_writing(self) -> None:
        for channel in self.channels:
            channel.pause_writing()

    def _resume_writing(self) -> None:
        for channel in self.channels:
            channel.resume_writing()


_CRITICAL = frozenset({"force-command", "source-address"})
_FOREVER = datetime.max.replace(tzinfo=UTC)


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return _FOREVER


class _Channel(asyncssh.SSHServerSession[bytes]):
    """One session channel; it becomes a `Session` when the subsystem is asked for, and accepts nothing else."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._session: Session | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == SUBSYSTEM

    def session_started(self) -> None:
        self._session = self._connection.open_session(self._channel)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._session is not None:
            self._session.received(data)

    def eof_received(self) -> bool:
        return False

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
