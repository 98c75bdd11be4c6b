"""The SSH transport: a session channel with the subsystem `hsmd` on an asyncssh connection of its own.

asyncssh is given every option: no configuration file, no SSH agent, no default keys, no known_hosts file. The only host keys
it trusts are those of the endpoint, and it never asks a user.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from hsmd.client.endpoint import MAX_IDENTITY_BYTES, Endpoint, read_identity, split_host_key
from hsmd.client.wire import LOGIN_S, REACH_S, Receiver, Wire
from hsmd.errors import ConfigurationError, HsmdError, ProtocolError, Unavailable
from hsmd.system.input_files import read_file
from hsmd.system.ssh_library import asyncssh
from hsmd.system.ssh_profile import (
    CLOSED,
    HOST_KEY_ALGORITHMS,
    IDENTITY_ALGORITHM,
    REKEY_SECONDS,
    SUBSYSTEM,
    WINDOW_BYTES,
    need_no_user_entry,
    require_host_principals,
    session_identifier,
    without_ignore_packets,
)

TURNED_AWAY_MS = 2_500
"""The pause before another attempt at a busy daemon is random, and at most this: an attempt costs the daemon time as well."""


class _SshWire(asyncssh.SSHClientSession[bytes]):
    """The session channel as a wire; the SSH connection ends with it."""

    def __init__(self, connection: asyncssh.SSHClientConnection, receiver: Receiver) -> None:
        self._connection = connection
        self._receiver = receiver
        self.binding = session_identifier(connection)

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self.write = chan.write

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is None:
            self._receiver.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver.lost("the daemon closed the channel" if exc is None else str(exc))
        self._connection.abort()

    def close(self) -> None:
        self._connection.close()

    async def wait_closed(self) -> None:
        await self._connection.wait_closed()


class _Host(asyncssh.SSHClient):
    """Called by asyncssh while it connects. The base class rejects every host key that is not in the list."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self.reached = False
        self.shown = ""
        """The fingerprint of a host key that is not pinned."""

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.reached = True
        self._limit.reschedule(asyncio.get_running_loop().time() + LOGIN_S)
        without_ignore_packets(conn)
        require_host_principals(conn)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called for a key that is not pinned."""
        self.shown = key.get_fingerprint()
        return False


async def open_ssh(endpoint: Endpoint, receiver: Receiver) -> Wire:
    """See `transport.open_wire`."""
    need_no_user_entry()
    options = _options(endpoint)
    connection = host = None
    try:
        async with asyncio.timeout(REACH_S) as limit:
            host = _Host(limit)
            connection = await asyncssh.connect(
                endpoint.host, endpoint.port, client_factory=lambda: host, **options
            )
            wire = _SshWire(connection, receiver)
            await connection.create_session(
                lambda: wire, subsystem=SUBSYSTEM, encoding=None, window=WINDOW_BYTES
            )
            return wire
    except BaseException as error:
        if connection is not None:
            connection.abort()
        if isinstance(error, (TimeoutError, OSError, ValueError, asyncssh.Error)):
            raise _explain(endpoint, error, host) from None
        raise


def _options(endpoint: Endpoint) -> dict[str, Any]:
    """Options of this connection. Keep-alives are off: the channel's own pings also detect a daemon that no longer answers."""
    return {
        **CLOSED,
        "known_hosts": _known_hosts(endpoint),
        "username": endpoint.user,
        "client_keys": [_identity(endpoint)],
        "preferred_auth": "publickey",
        "server_host_key_algs": HOST_KEY_ALGORITHMS,
        "login_timeout": LOGIN_S,
        # Clients that connected together, after a restart of the daemon, must not all exchange keys together.
        "rekey_seconds": random.uniform(REKEY_SECONDS / 2, REKEY_SECONDS),
    }


def _known_hosts(endpoint: Endpoint) -> tuple[list[Any], list[Any], list[Any]]:
    """(trusted host keys, trusted host CAs, revoked keys) as asyncssh takes them."""
    keys: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for line in endpoint.host_keys:
        is_ca, public = split_host_key(line)
        keys[1 if is_ca else 0].append(asyncssh.import_public_key(public))
    return keys


def _identity(endpoint: Endpoint) -> Any:
    """The client's key, together with its certificate if there is one."""
    path = endpoint.identity_file
    try:
        key = asyncssh.import_private_key(read_identity(path))
        if key.get_algorithm() != IDENTITY_ALGORITHM:
            raise ConfigurationError(
                "identity", [f"{path}: not an Ed25519 key; make one: ssh-keygen -t ed25519"]
            )
        if endpoint.certificate_file is None:
            return key
        path = endpoint.certificate_file
        return (key, asyncssh.import_certificate(_certificate(path)))
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
        fault = f"{path}: not a readable OpenSSH key or certificate; private keys must have no passphrase"
        raise ConfigurationError("identity", [fault]) from None


def _certificate(path: Path) -> bytes:
    try:
        return read_file(path, MAX_IDENTITY_BYTES)
    except OSError as error:
        raise ConfigurationError("identity", [f"{path}: {error.strerror}"]) from None


def _pinned(endpoint: Endpoint) -> str:
    """The fingerprints of the host keys and host CAs that are accepted."""
    keys, cas, _ = _known_hosts(endpoint)
    names = [key.get_fingerprint() for key in keys] + [f"the CA {key.get_fingerprint()}" for key in cas]
    return " or ".join(names)


def _explain(endpoint: Endpoint, error: Exception, host: _Host | None) -> HsmdError:
    """The error that stands for an exception of asyncssh; `host` says whether TCP connected."""
    reason = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error)
    if host is None or not host.reached:
        problem = f"no answer within {REACH_S:g} s" if isinstance(error, TimeoutError) else reason
        return Unavailable(f"{endpoint} cannot be reached: {problem}")
    match error:
        case asyncssh.HostKeyNotVerifiable():
            found = f"it has {host.shown}, pinned is {_pinned(endpoint)}" if host.shown else reason
            return ProtocolError(f"{endpoint} does not have the pinned host key: {found}")
        case asyncssh.KeyExchangeFailed():
            return ProtocolError(f"{endpoint} has no algorithm in common with this client: {reason}")
        case asyncssh.PermissionDenied():
            return Unavailable(f"{endpoint} does not accept the identity of {endpoint.user}")
        case asyncssh.ChannelOpenError():
            return Unavailable(f"{endpoint} does not offer the subsystem {SUBSYSTEM}: {reason}")
        case TimeoutError():
            return Unavailable(f"{endpoint} did not complete the login within {LOGIN_S:g} s")
    # Before the login: many clients want to log in. The daemon closes a connection at once when too many others are doing so.
    return Unavailable(f"{endpoint} ended the connection: {reason}", retry_after_ms=TURNED_AWAY_MS)
