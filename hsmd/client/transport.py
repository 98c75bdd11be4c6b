"""Transports: asyncssh's home on the client's side, and the agent's Unix socket. They carry bytes and know no frames.

asyncssh is told everything: no configuration file, no SSH agent, no default keys, no known_hosts file; the only host keys it
trusts are those of the endpoint, and there is nobody who could be asked (DESIGN, decision 12).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Protocol

import asyncssh

from hsmd.client.endpoint import AgentEndpoint, Endpoint, read_identity, split_host_key
from hsmd.errors import ConfigurationError, HsmdError, ProtocolError, Unavailable
from hsmd.system.ssh_profile import (
    CLOSED,
    HOST_KEY_ALGORITHMS,
    IDENTITY_ALGORITHM,
    REKEY_SECONDS,
    SUBSYSTEM,
    WINDOW_BYTES,
    require_host_principals,
    without_ignore_packets,
)

REACH_S = 1.0
"""Time for TCP to reach the host. Short, because a SYN that got lost is better sent anew than waited for."""
LOGIN_S = 5.0
"""Time for key exchange, authentication and opening the channel."""


class Receiver(Protocol):
    """Who gets the bytes of a wire."""

    def received(self, data: bytes) -> None: ...

    def lost(self, reason: str) -> None:
        """The wire is gone; called once, nothing follows."""


class Wire(Protocol):
    """An open channel: ordered bytes, until it is lost."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None:
        """Close at once; what was written before still leaves if the peer reads it."""

    async def wait_closed(self) -> None:
        """Until nothing of it is left."""


async def open_wire(endpoint: Endpoint | AgentEndpoint, receiver: Receiver) -> Wire:
    """A channel to `endpoint` whose bytes go to `receiver`.

    Raises Unavailable (nobody there, or we are not let in), ProtocolError (not the daemon that is pinned, or
    without an algorithm of ours) or ConfigurationError (identity file).
    """
    if isinstance(endpoint, AgentEndpoint):
        return await _open_socket(endpoint, receiver)
    return await _open_ssh(endpoint, receiver)


# --- Unix socket ---


class _SocketWire(asyncio.Protocol):
    """The agent's socket as a wire."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.write = transport.write
        self.close = transport.close

    def data_received(self, data: bytes) -> None:
        self._receiver.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._receiver.lost("the agent closed the connection" if exc is None else str(exc))

    async def wait_closed(self) -> None:
        await self._gone.wait()


async def _open_socket(endpoint: AgentEndpoint, receiver: Receiver) -> Wire:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(REACH_S):
            _, wire = await loop.create_unix_connection(lambda: _SocketWire(receiver), str(endpoint.path))
    except TimeoutError:
        raise Unavailable(f"{endpoint} does not accept connections") from None
    except OSError as error:
        raise Unavailable(f"{endpoint}: {error.strerror or error}; is the agent running?") from None
    return wire


# --- SSH ---


class _SshWire(asyncssh.SSHClientSession[bytes]):
    """The session channel as a wire; the SSH connection lives and dies with it."""

    def __init__(self, connection: asyncssh.SSHClientConnection, receiver: Receiver) -> None:
        self._connection = connection
        self._receiver = receiver

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
    """Called by asyncssh while it connects. It inherits "no" to every host key that is not in the list."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self.reached = False

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.reached = True
        self._limit.reschedule(asyncio.get_running_loop().time() + LOGIN_S)
        without_ignore_packets(conn)
        require_host_principals(conn)


async def _open_ssh(endpoint: Endpoint, receiver: Receiver) -> Wire:
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
            raise _explain(endpoint, error, reached=host is not None and host.reached) from None
        raise


def _options(endpoint: Endpoint) -> dict[str, Any]:
    """Frames that keep the channel alive are ours (see link.py); they also notice a daemon that no longer answers."""
    return {
        **CLOSED,
        "known_hosts": _known_hosts(endpoint),
        "username": endpoint.user,
        "client_keys": [_identity(endpoint)],
        "preferred_auth": "publickey",
        "server_host_key_algs": HOST_KEY_ALGORITHMS,
        "login_timeout": LOGIN_S,
        "rekey_seconds": REKEY_SECONDS,
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
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError("identity", [f"{path}: {error.strerror}"]) from None


def _explain(endpoint: Endpoint, error: Exception, *, reached: bool) -> HsmdError:
    """What an exception of asyncssh means to the caller; `reached` says whether TCP got through."""
    reason = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error)
    if not reached:
        problem = f"no answer within {REACH_S:g} s" if isinstance(error, TimeoutError) else reason
        return Unavailable(f"{endpoint} cannot be reached: {problem}")
    match error:
        case asyncssh.HostKeyNotVerifiable():
            return ProtocolError(f"{endpoint} is not the daemon that is pinned: {reason}")
        case asyncssh.KeyExchangeFailed():
            return ProtocolError(f"{endpoint} has no algorithm of ours: {reason}")
        case asyncssh.PermissionDenied():
            return Unavailable(f"{endpoint} does not accept the identity of {endpoint.user}")
        case asyncssh.ChannelOpenError():
            return Unavailable(f"{endpoint} does not offer the subsystem {SUBSYSTEM}: {reason}")
        case TimeoutError():
            return Unavailable(f"{endpoint} did not complete the login within {LOGIN_S:g} s")
    return Unavailable(f"{endpoint} ended the connection: {reason}")
