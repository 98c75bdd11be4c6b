"""The client's side of enrolment: compare the daemon's host key with the token, prove the token, register a key.

The token's secret is sent only after the key exchange has proven that the peer holds the host key, or a host certificate of
the CA, whose SHA-256 is in the token. There is no interaction with a user.
"""

from __future__ import annotations

import asyncio
import base64
from hashlib import sha256
from typing import Any

from hsmd.client.endpoint import host_key_fault, parse_address, split_host_key
from hsmd.errors import HsmdError, ProtocolError, RefusedHere, Unavailable
from hsmd.protocol.enrolment import (
    MAX_DOCUMENT_BYTES,
    SUBSYSTEM,
    USER,
    EnrolmentAnswer,
    EnrolmentQuestion,
    EnrolmentToken,
    decode_answer,
    encode,
)
from hsmd.system.ssh_library import asyncssh
from hsmd.system.ssh_profile import (
    CLOSED,
    need_no_user_entry,
    require_host_principals,
    without_ignore_packets,
)

LIMIT_S = 15.0
"""Time limit for the whole enrolment."""


async def enrol(token: EnrolmentToken, public_key: str) -> EnrolmentAnswer:
    """Register `public_key` (an OpenSSH line) for the client that the token was made for.

    Raises Unavailable (not reachable), ProtocolError (not the daemon of the token), Refused (token wrong, used or too
    old: the daemon does not tell which), BadRequest.
    """
    need_no_user_entry()
    host, port = parse_address(token.address)
    connection = None
    try:
        async with asyncio.timeout(LIMIT_S):
            connection = await asyncssh.connect(
                host, port, client_factory=lambda: _Host(token), **_options(token)
            )
            line = await _ask(connection, encode(EnrolmentQuestion(public_key)))
    except (TimeoutError, OSError, ValueError, asyncssh.Error) as error:
        raise _explain(token, error) from None
    finally:
        if connection is not None:
            connection.abort()
    return _checked(token, decode_answer(line))


class _Host(asyncssh.SSHClient):
    """Called by asyncssh: accepts only the host key, or host CA, of the token."""

    def __init__(self, token: EnrolmentToken) -> None:
        self._token = token

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        without_ignore_packets(conn)
        require_host_principals(conn)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return not self._token.pins_ca and sha256(key.public_data).digest() == self._token.pin

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self._token.pins_ca and sha256(key.public_data).digest() == self._token.pin


def _options(token: EnrolmentToken) -> dict[str, Any]:
    """Options as for every connection, but with the token instead of a key."""
    return {
        **CLOSED,
        "known_hosts": ([], [], []),
        "username": USER,
        "password": token.password,
        "preferred_auth": "password",
        "server_host_key_algs": ["ssh-ed25519-cert-v01@openssh.com" if token.pins_ca else "ssh-ed25519"],
        "login_timeout": LIMIT_S,
    }


async def _ask(connection: asyncssh.SSHClientConnection, question: bytes) -> bytes:
    writer, reader, _ = await connection.open_session(subsystem=SUBSYSTEM, encoding=None)
    writer.write(question)
    received = b""
    while not received.endswith(b"\n") and len(received) <= MAX_DOCUMENT_BYTES:
        data = await reader.read(MAX_DOCUMENT_BYTES)
        if not data:
            break
        received += data
    if not received.endswith(b"\n"):
        raise ValueError("the daemon sent no answer")
    return received


def _checked(token: EnrolmentToken, answer: EnrolmentAnswer) -> EnrolmentAnswer:
    """The answer, if its first host key is the token's and all can be pinned. Raises RefusedHere or ProtocolError."""
    if answer.error:
        raise RefusedHere(f"the daemon at {token.address} refused the enrolment: {answer.error}")
    if not answer.host_keys or any(host_key_fault(line) for line in answer.host_keys):
        raise ProtocolError("enrolment: the daemon's answer has no host keys that can be pinned")
    is_ca, line = split_host_key(answer.host_keys[0])
    if is_ca != token.pins_ca or sha256(base64.b64decode(line.split()[1])).digest() != token.pin:
        raise ProtocolError("enrolment: the daemon's answer names another host key than the token")
    return answer


def _explain(token: EnrolmentToken, error: Exception) -> HsmdError:
    where = f"daemon at {token.address}"
    reason = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error)
    match error:
        case asyncssh.HostKeyNotVerifiable():
            return ProtocolError(f"{where} is not the one that made the token: {reason}")
        case asyncssh.KeyExchangeFailed():
            return ProtocolError(f"{where} has no algorithm in common with this client: {reason}")
        case asyncssh.PermissionDenied():
            return RefusedHere(
                f"{where} does not accept the token: it is wrong, used, or older than 15 minutes"
            )
        case TimeoutError():
            return Unavailable(f"{where} did not answer within {LIMIT_S:g} s")
    return Unavailable(f"{where} cannot be reached: {reason}")
