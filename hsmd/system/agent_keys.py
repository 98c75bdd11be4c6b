"""Signatures by a key that the user's SSH agent holds (`SSH_AUTH_SOCK`; draft-ietf-sshm-ssh-agent). Ed25519 only."""

from __future__ import annotations

import base64
import os
import socket
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.errors import BadRequest
from hsmd.system.ssh_agent_messages import Message, receive, string, take

ANSWER_S = 10.0
"""An agent lists its keys without a question."""
CONFIRM_S = 120.0
"""Before it signs, an agent may ask its user (`ssh-add -c`)."""
_MAX_KEYS = 1_000
_ALGORITHM = b"ssh-ed25519"


class AgentKey:
    """A key that the agent holds. Errors are BadRequest, `problem; advice`."""

    def __init__(self, public: Ed25519PublicKey) -> None:
        """Raises BadRequest unless there is an agent that holds the key."""
        line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        self._public = public
        self._blob = base64.b64decode(line.split()[1])
        try:
            held = _keys_in(_ask(bytes([Message.LIST]), Message.LISTED, ANSWER_S))
        except ValueError:
            raise _no_agent("gave an answer that is not well formed") from None
        if self._blob not in held:
            raise BadRequest("your ssh-agent does not hold the key; add it with ssh-add, and try again")

    def public_key(self) -> Ed25519PublicKey:
        """Its public half."""
        return self._public

    def sign(self, data: bytes, /) -> bytes:
        """The signature, which is verified. Raises BadRequest, also if the agent's user says no."""
        request = bytes([Message.SIGN]) + string(self._blob) + string(data) + bytes(4)
        try:
            algorithm, rest = take(take(_ask(request, Message.SIGNED, CONFIRM_S))[0])
            signature, _ = take(rest)
            if algorithm != _ALGORITHM:
                raise ValueError
            self._public.verify(signature, data)
        except (ValueError, InvalidSignature):
            raise _no_agent("made a signature that is wrong") from None
        return signature


def _ask(message: bytes, answer: Message, within_s: float) -> bytes:
    """The body of the answer. Raises BadRequest if there is no agent, or no answer of this kind in time."""
    path = os.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        raise BadRequest(
            "there is no ssh-agent (SSH_AUTH_SOCK is not set); start one with: eval $(ssh-agent), then ssh-add the key"
        )
    ends = time.monotonic() + within_s
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(within_s)
            connection.connect(path)
            connection.sendall(string(message))
            received = receive(connection, ends)
    except TimeoutError:
        raise _no_agent(f"did not answer within {within_s:.0f} seconds") from None
    except (OSError, EOFError):
        raise _no_agent("cannot be reached, or ended the connection") from None
    if received[0] != answer:
        raise BadRequest("your ssh-agent refused; unlock it, or confirm its question, and try again")
    return received[1:]


def _no_agent(what: str) -> BadRequest:
    return BadRequest(f"your ssh-agent (SSH_AUTH_SOCK) {what}; check it with: ssh-add -L")


def _keys_in(body: bytes) -> set[bytes]:
    """The public keys in a list. Raises ValueError if it is cut off, or very long."""
    count, rest = int.from_bytes(body[:4]), body[4:]
    if count > _MAX_KEYS:
        raise ValueError
    found = set()
    for _ in range(count):
        key, rest = take(rest)
        _, rest = take(rest)
        found.add(key)
    return found
