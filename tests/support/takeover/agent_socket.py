"""A client of the agent's Unix socket, written from docs/protocol.md with the standard library and `cryptography` only.

The takeover test and the script that made its fixtures share it, so that old and new agent get the same bytes.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

ASK_S = 10.0
KEY_OPERATION, RESULT, ERROR, CONTROL_REQUEST, CONTROL_RESULT = 0x10, 0x11, 0x12, 0x20, 0x21
REFUSED, UNAVAILABLE = 10, 20
_HELLO, _REQUEST_ID, _CONTROL = 0x01, 1, 1

TLS13_SERVER, TLS13_CLIENT, TLS12_SERVER, RSA_PREMASTER, SIGN_MESSAGE = 1, 2, 3, 5, 8
ECDSA_SHA256, RSA_PSS_SHA256, RSA_PKCS1_SHA256, ED25519 = 0x0403, 0x0804, 0x0401, 0x0807


class AgentError(Exception):
    """An `error` frame."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"error {code}: {text}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Key:
    """A key as `hsmd key list --json` prints it."""

    name: str
    digest: str
    public_key: Any
    purposes: tuple[str, ...]

    @staticmethod
    def of(document: dict[str, Any]) -> Key:
        """From one element of `keys`."""
        public_key = load_der_public_key(base64.b64decode(document["public_key"]))
        return Key(document["name"], document["digest"], public_key, tuple(document["purposes"]))


def control(path: Path, op: str, **members: Any) -> dict[str, Any]:
    """The result of a control request. Raises AgentError, OSError."""
    request = json.dumps({"op": op, **members}).encode()
    answer = _ask(path, CONTROL_REQUEST, CONTROL_RESULT, _deadline() + request)
    found: dict[str, Any] = json.loads(answer)
    return found


def connected(path: Path) -> bool:
    """Whether the agent answers and is connected to a daemon."""
    try:
        return bool(control(path, "whoami").get("daemon"))
    except (AgentError, OSError):
        return False


def answers(path: Path) -> bool:
    """Whether the agent answers at all, with a daemon or without."""
    try:
        control(path, "whoami")
    except AgentError:
        return True
    except OSError:
        return False
    return True


def key_names(path: Path) -> set[str]:
    """The keys that the agent has listed for this user. Raises AgentError, OSError."""
    return {key["name"] for key in control(path, "key.list")["keys"]}


def use(path: Path, digest: str, purpose: int, scheme: int, data: bytes) -> bytes:
    """The answer to a key operation. Raises AgentError, OSError."""
    body = _deadline() + struct.pack(">BH", purpose, scheme) + bytes.fromhex(digest) + data
    return _ask(path, KEY_OPERATION, RESULT, body)


def use_and_check(path: Path, key: Key) -> list[str]:
    """Use a key for each of its purposes known here, and check the answers; return the names of these purposes.

    Raises AgentError, OSError, or InvalidSignature; AssertionError for a wrong premaster secret.
    """
    done = []
    if "tls13-server" in key.purposes:
        data = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + os.urandom(32)
        scheme = _scheme(key.public_key, tls13=True)
        _verify(key.public_key, use(path, key.digest, TLS13_SERVER, scheme, data), data, scheme)
        done.append("tls13-server")
    if "tls12-server" in key.purposes:
        # Client random, server random, ServerECDHParams with named curve x25519 (RFC 8422, section 5.4).
        data = os.urandom(64) + b"\x03\x00\x1d\x20" + os.urandom(32)
        scheme = _scheme(key.public_key, tls13=False)
        _verify(key.public_key, use(path, key.digest, TLS12_SERVER, scheme, data), data, scheme)
        done.append("tls12-server")
    if "tls12-rsa-premaster" in key.purposes:
        secret = b"\x03\x03" + os.urandom(46)
        ciphertext = key.public_key.encrypt(secret, padding.PKCS1v15())
        answer = use(path, key.digest, RSA_PREMASTER, 0, ciphertext)
        assert answer == secret, f"{key.name}: another premaster secret"
        done.append("tls12-rsa-premaster")
    if "sign-message" in key.purposes:
        data, scheme = b"a message of the takeover test", _scheme(key.public_key, tls13=False)
        _verify(key.public_key, use(path, key.digest, SIGN_MESSAGE, scheme, data), data, scheme)
        done.append("sign-message")
    return done


def _scheme(public_key: Any, *, tls13: bool) -> int:
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return ED25519
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return ECDSA_SHA256
    return RSA_PSS_SHA256 if tls13 else RSA_PKCS1_SHA256


def _verify(public_key: Any, signature: bytes, data: bytes, scheme: int) -> None:
    if scheme == ED25519:
        public_key.verify(signature, data)
    elif scheme == ECDSA_SHA256:
        public_key.verify(signature, data, ec.ECDSA(SHA256()))
    else:
        assert isinstance(public_key, rsa.RSAPublicKey)
        pss = padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH)
        public_key.verify(signature, data, pss if scheme == RSA_PSS_SHA256 else padding.PKCS1v15(), SHA256())


def _deadline() -> bytes:
    return struct.pack(">I", int(ASK_S * 1000))


def _frame(kind: int, request_id: int, body: bytes) -> bytes:
    return struct.pack(">IBQ", 9 + len(body), kind, request_id) + body


def _ask(path: Path, kind: int, answer_kind: int, body: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ASK_S)
        sock.connect(str(path))
        hello = b"HSMD\x01\x01" + struct.pack(">I", _CONTROL)
        sock.sendall(_frame(_HELLO, 0, hello) + _frame(kind, _REQUEST_ID, body))
        with sock.makefile("rb") as stream:
            while True:
                length, got, request_id = struct.unpack(">IBQ", _exactly(stream, 13))
                content = _exactly(stream, length - 9)
                if got == ERROR and request_id in (0, _REQUEST_ID):
                    raise AgentError(int.from_bytes(content[:2]), content[6:].decode(errors="replace"))
                if request_id == _REQUEST_ID:
                    assert got == answer_kind, f"an answer of kind {got:#x}"
                    return content


def _exactly(stream: Any, count: int) -> bytes:
    data: bytes = stream.read(count)
    if len(data) != count:
        raise ConnectionResetError("the agent closed the connection")
    return data
