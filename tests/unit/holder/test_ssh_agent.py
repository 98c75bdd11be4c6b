"""The SSH agent for one program: it lists and signs with one key, refuses everything else, and leaves nothing."""

from __future__ import annotations

import base64
import os
import socket
import struct
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsmd.errors import BadRequest
from hsmd.holder import ssh_agent
from hsmd.holder.ssh_agent import OneKeyAgent
from hsmd.system.ssh_agent_messages import MAX_MESSAGE_BYTES
from tests.support.envelopes import rsa_key

KEYS: dict[str, Any] = {
    "rsa": rsa_key(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}


def blob_of(key: Any) -> bytes:
    return base64.b64decode(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])


def string(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def sign_request(blob: bytes, data: bytes, flags: int = 0) -> bytes:
    return bytes([13]) + string(blob) + string(data) + struct.pack(">I", flags)


@pytest.mark.parametrize("kind", KEYS)
async def test_another_implementation_lists_and_signs(kind: str) -> None:
    key = KEYS[kind]
    with OneKeyAgent(key, "www (vault)") as agent:
        async with asyncssh.connect_agent(str(agent.path)) as client:
            (found,) = await client.get_keys()
            assert (found.public_data, found.get_comment()) == (blob_of(key), "www (vault)")
            algorithm = b"rsa-sha2-256" if kind == "rsa" else found.sig_algorithms[0]
            found.set_sig_algorithm(algorithm)
            signature = await found.sign_async(b"data")
    public = asyncssh.import_private_key(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    ).convert_to_public()
    assert public.verify(b"data", signature)


def test_the_socket_is_of_this_user_and_is_gone_afterwards() -> None:
    with OneKeyAgent(KEYS["ed25519"], "x") as agent:
        directory = agent.path.parent
        assert directory.stat().st_mode & 0o777 == 0o700
        assert agent.path.is_socket()
    assert not directory.exists()


@pytest.mark.parametrize(
    "message",
    [
        b"", b"\x00", bytes([17]), bytes([13]), bytes([13]) + b"\xff" * 8, sign_request(blob_of(KEYS["p256"]), b"x", 4),
        sign_request(blob_of(KEYS["rsa"]), b"x"), sign_request(blob_of(KEYS["rsa"]), b"x", 4) + b"x",
    ],
)  # fmt: skip
def test_everything_else_is_a_failure(message: bytes) -> None:
    """Other keys, SHA-1, adding keys, truncated requests."""
    assert OneKeyAgent(KEYS["rsa"], "x").answer(message) == b"\x05"


def test_sha_2_is_made_as_it_is_asked_for() -> None:
    agent = OneKeyAgent(KEYS["rsa"], "x")
    for flags, name in ((2, b"rsa-sha2-256"), (4, b"rsa-sha2-512"), (6, b"rsa-sha2-512")):
        assert name in agent.answer(sign_request(blob_of(KEYS["rsa"]), b"x", flags))


def test_a_message_that_is_too_long_ends_the_connection() -> None:
    with OneKeyAgent(KEYS["ed25519"], "x") as agent, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(agent.path))
        client.sendall(struct.pack(">I", MAX_MESSAGE_BYTES + 1))
        assert client.recv(1) == b""


def test_another_users_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_agent, "_uid_of", lambda _: os.geteuid() + 1)
    with OneKeyAgent(KEYS["ed25519"], "x") as agent, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(agent.path))
        assert client.recv(1) == b""


def test_keys_that_ssh_does_not_use_are_named() -> None:
    with pytest.raises(BadRequest, match="SSH uses RSA, EC and Ed25519 keys"):
        OneKeyAgent(x25519.X25519PrivateKey.generate(), "x")


def test_the_key_is_in_no_repr() -> None:
    agent = OneKeyAgent(KEYS["ed25519"], "x")
    raw = KEYS["ed25519"].private_bytes_raw()
    assert raw.hex() not in repr(vars(agent)) and repr(raw)[2:-1] not in repr(vars(agent))
    assert agent.path == Path()
