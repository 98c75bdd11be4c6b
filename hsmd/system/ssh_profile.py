"""The SSH profile of hsmd: algorithms, names and sizes for both ends, and every access to a private part of asyncssh.

The client's transport and the daemon's listener share it, so that the two ends cannot drift apart. The functions read or
replace what asyncssh does not offer as an interface; `tests/unit/system/test_asyncssh_canaries.py` fails if a release of
asyncssh changes one of these parts. Importing this module does not import asyncssh.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import PosixPath
from types import MappingProxyType
from typing import Any, NamedTuple, Self

SUBSYSTEM = "hsmd"
KEX_ALGORITHMS = ("mlkem768x25519-sha256", "curve25519-sha256")
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
"""Never in use, because AES-GCM authenticates itself; yet every list of a KEXINIT is read by scanners and auditors."""
HOST_KEY_ALGORITHMS = ("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519")
IDENTITY_ALGORITHM = "ssh-ed25519"
WINDOW_BYTES = 1 << 20
REKEY_SECONDS = 3_600

ALGORITHMS: Mapping[str, Any] = MappingProxyType(
    {
        "kex_algs": KEX_ALGORITHMS,
        "encryption_algs": CIPHERS,
        "mac_algs": MACS,
        "compression_algs": ("none",),
    }
)
"""Options of both ends: every list of algorithms in a KEXINIT (RFC 4253, section 7.1) but that of host keys."""

CLOSED: Mapping[str, Any] = MappingProxyType(
    {
        "config": [],
        "x509_trusted_certs": None,
        "x509_trusted_cert_paths": [],
        "client_keys": None,
        "client_certs": (),
        "agent_path": None,
        "pkcs11_provider": None,
        "gss_host": None,
        "gss_kex": False,
        "gss_auth": False,
        "disable_trivial_auth": True,
        "send_env": [],
        **ALGORITHMS,
        "signature_algs": [IDENTITY_ALGORITHM],
        "keepalive_interval": 0,
        "client_version": "hsmd",
    }
)
"""Options of every outgoing connection: each disables a source that asyncssh would otherwise read from the user's environment."""

_MSG_IGNORE = 2
"""SSH_MSG_IGNORE (RFC 4253, section 11.2)."""
_EMPTY_STRING = bytes(4)
"""An empty string (RFC 4251, section 5)."""


# --- both ends ---


def need_no_user_entry() -> None:
    """Let asyncssh work for a user without an entry in the user database, as in containers (replaces two of its imports).

    For every connection it looks up the local user's name and home directory, for configuration files that it is told not
    to read, and raises ValueError or RuntimeError if there is none. For all other users nothing changes.
    """
    import asyncssh.config
    import asyncssh.connection

    vars(asyncssh.connection)["getpass"] = _UserName
    vars(asyncssh.config)["Path"] = _PathWithoutHome


class _UserName:
    """Stands for the module getpass."""

    @staticmethod
    def getuser() -> str:
        with suppress(KeyError, OSError):
            return getpass.getuser()
        return str(os.getuid())


class _PathWithoutHome(PosixPath):
    """A path that keeps its `~` if there is no home directory."""

    def expanduser(self) -> Self:
        with suppress(RuntimeError):
            return super().expanduser()
        return self


def without_ignore_packets(connection: Any) -> None:
    """Stop asyncssh from sending an SSH_MSG_IGNORE before every packet of this connection (replaces `send_packet`).

    These packets counter an attack on chained initialisation vectors of CBC ciphers (RFC 4251, section 9.3.1); with
    AES-GCM, the only cipher we negotiate, they only double the number of packets.
    """
    send_packet = connection.send_packet

    def send(packet_type: int, *payload: bytes, **options: Any) -> None:
        if packet_type != _MSG_IGNORE:
            send_packet(packet_type, *payload, **options)

    connection.send_packet = send


def send_ignore_packet(connection: Any) -> None:
    """Send an SSH_MSG_IGNORE (RFC 4253, section 11.2): no peer answers it, and where there is no peer left, its kernel does."""
    type(connection).send_packet(connection, _MSG_IGNORE, _EMPTY_STRING)


def session_identifier(connection: Any) -> bytes:
    """The exchange hash of the first key exchange (`_session_id`; RFC 4253, section 7.2): 32 bytes that both ends know.

    No other connection has the same one, and it stays when keys are exchanged anew. It is empty before the first exchange.
    """
    return bytes(connection._session_id)


@contextmanager
def sent_together(connection: Any) -> Iterator[None]:
    """Have all packets that asyncssh sends meanwhile written at once (replaces `_send`).

    It writes each packet by itself, and each write is a system call, which wakes the peer: the answer to a key agreement is
    three packets (RFC 4253, sections 7.3 and 8; RFC 8308). The transport is the one of now: asyncssh forgets its own when it
    ends a connection, after the packet that tells the peer why.
    """
    packets: list[bytes] = []
    transport = connection._transport
    connection._send = packets.append
    try:
        yield
    finally:
        del connection._send  # the method of its class counts again
        if packets and transport is not None and not transport.is_closing():
            with suppress(ConnectionError):
                transport.write(b"".join(packets))


# --- clients ---


def require_host_principals(connection: Any) -> None:
    """Refuse host certificates without principals (wraps `_validate_openssh_host_certificate`).

    asyncssh accepts such a certificate for any host; OpenSSH refuses it.
    """
    inner = connection._validate_openssh_host_certificate

    def validate(host: str, addr: str, port: int, certificate: Any) -> Any:
        if not certificate.principals:
            raise ValueError("Host certificate names no principal")
        return inner(host, addr, port, certificate)

    connection._validate_openssh_host_certificate = validate


# --- servers ---

ValidateKey = Callable[[str, bytes, bytes, bytes], Awaitable[bool]]
"""(user name, key or certificate blob, signed message, signature): whether the key is accepted. Without a message, the client
only asks whether the key would be accepted."""


def guard_login(
    connection: Any, *, admit_try: Callable[[], bool], validate_with: Callable[[ValidateKey], ValidateKey]
) -> None:
    """Call `admit_try` before each authentication request, and replace key validation by `validate_with(asyncssh's own)`.

    asyncssh neither limits the number of requests nor passes the application the blob and the signature. Wraps
    `_finish_userauth`, which runs once for each request that `admit_try` accepts, and `validate_public_key` of the connection.
    The attributes are read at once: if asyncssh renames one, every login fails.
    """
    finish_request = connection._finish_userauth

    async def finish_admitted(*request: Any) -> None:
        if admit_try():
            await finish_request(*request)

    connection._finish_userauth = finish_admitted
    connection.validate_public_key = validate_with(connection.validate_public_key)


def keep_options(connection: Any) -> None:
    """Stop asyncssh from making the options anew for each login (replaces `reload_config`).

    It reads configuration files again, in a thread, for what they say about the user who logs in, and keeps the result for each
    connection. We have it read none.
    """
    connection.reload_config = _nothing


async def _nothing() -> None:
    pass


def requested_user(connection: Any) -> str:
    """The user name of the newest authentication request (`_username`); public only after the login has succeeded."""
    return str(connection._username)


class CertificateTerms(NamedTuple):
    """Fields of an OpenSSH certificate; the times are in seconds since 1970."""

    serial: int
    key_id: str
    valid_after: int
    valid_before: int


def certificate_terms(certificate: Any) -> CertificateTerms:
    """Serial number, key id and validity of an asyncssh certificate, which keeps them in private attributes."""
    return CertificateTerms(
        certificate._serial, certificate._key_id, certificate._valid_after, certificate._valid_before
    )


def refuse_environment(channel: Any) -> None:
    """Refuse all environment variables on this channel; asyncssh would store them without limit (`_process_env_request`)."""
    channel._process_env_request = _refuse


def _refuse(packet: Any) -> bool:
    return False


def forget_login(connection: Any) -> None:
    """Free what asyncssh keeps for each connection and a server needs no more once a client has logged in.

    Sets that only clients fill, and the messages that a completed key exchange has signed; the next exchange makes its own.
    """
    for name in _OF_CLIENTS:
        setattr(connection, name, _EMPTY)
    if connection._kex_complete:
        connection._client_kexinit = connection._server_kexinit = b""


_EMPTY: frozenset[Any] = frozenset()
_OF_CLIENTS = (
    "_trusted_host_keys",
    "_trusted_ca_keys",
    "_revoked_host_keys",
    "_x509_revoked_certs",
    "_server_sig_algs",
)


def exchanges_keys(connection: Any) -> bool:
    """Whether a key exchange has begun and is not complete (`_kex_complete`): packets that are sent wait, without limit."""
    return not connection._kex_complete


def deliver_at_once(channel: Any) -> None:
    """Have data that a peer sends before its request for a subsystem delivered, and so dropped, not kept up to the window."""
    channel.resume_reading()


class PacketHandling(NamedTuple):
    """The parts of an asyncssh connection that handle received bytes."""

    transport: Any
    """The TCP transport; asyncssh offers no way to pause reading (`_transport`)."""
    handle_received: Callable[[], object]
    """Handle the packets in the receive buffer until none is complete or one is deferred (`_recv_data`)."""
    handle_packet: Callable[[], object]
    """Handle one packet; false if none is complete (`_recv_packet`)."""
    exchange_keys: Callable[[], object]
    """Start a key exchange, or answer one that the peer started (`_send_kexinit`)."""


def packet_handling(connection: Any) -> PacketHandling:
    """The parts as they are now. asyncssh looks them up on the connection each time, so they can be replaced."""
    return PacketHandling(
        connection._transport, connection._recv_data, connection._recv_packet, connection._send_kexinit
    )


def replace_packet_handling(
    connection: Any,
    *,
    handle_packet: Callable[[], bool],
    exchange_keys: Callable[[], None],
    pause_writing: Callable[[], None],
    resume_writing: Callable[[], None],
) -> None:
    """Put own functions in the place of `_recv_packet`, `_send_kexinit`, `pause_writing` and `resume_writing`.

    asyncssh ignores a transport that is full, handles all packets of a read at once, and does not limit key exchanges.
    """
    connection._recv_packet = handle_packet
    connection._send_kexinit = exchange_keys
    connection.pause_writing, connection.resume_writing = pause_writing, resume_writing
