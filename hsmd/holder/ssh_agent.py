"""An SSH agent with one key, for one program: signatures over a socket that only this user can reach (draft-ietf-sshm-ssh-agent).

It lists its key and signs with it, and answers failure to everything else. The key is in this process only.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import socket
import struct
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.errors import BadRequest
from hsmd.system.ssh_agent_messages import Message, receive, string, take

MAX_CONNECTIONS = 16
IDLE_S = 600.0
_RSA_SHA2_256, _RSA_SHA2_512 = 2, 4
_PEER = struct.Struct("=iII")
_CURVE_HASHES: dict[int, hashes.HashAlgorithm] = {
    256: hashes.SHA256(),
    384: hashes.SHA384(),
    521: hashes.SHA512(),
}

SshKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class _Signature(NamedTuple):
    algorithm: bytes
    value: bytes


class OneKeyAgent:
    """Listens while the block runs, at `path`; nothing is left afterwards. `comment` names the key in lists."""

    def __init__(self, private: object, comment: str) -> None:
        """Raises BadRequest for a key that SSH does not use."""
        if not isinstance(private, SshKey):
            raise BadRequest(
                "SSH uses RSA, EC and Ed25519 keys, and this is another kind; take it out into a file"
            )
        self._private = private
        line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        self._blob = base64.b64decode(line.split()[1])
        self._comment = comment.encode()
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._directory = ""
        self.path = Path()

    def __enter__(self) -> OneKeyAgent:
        self._directory = tempfile.mkdtemp(prefix="hsmd-agent-")
        self.path = Path(self._directory, "socket")
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(self.path))
        self._listening.listen(MAX_CONNECTIONS)
        threading.Thread(target=self._accept, name="hsmd-ssh-agent", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listening.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            self._places.acquire()
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError, EOFError):
                connection.settimeout(IDLE_S)
                if _uid_of(connection) != os.geteuid():
                    return
                while True:
                    connection.sendall(string(self.answer(receive(connection))))
        finally:
            self._places.release()

    def answer(self, message: bytes) -> bytes:
        """The answer to a message, both without their length. A malformed one gets a failure."""
        try:
            if message[:1] == bytes([Message.LIST]):
                return (
                    bytes([Message.LISTED])
                    + struct.pack(">I", 1)
                    + string(self._blob)
                    + string(self._comment)
                )
            if message[:1] == bytes([Message.SIGN]):
                blob, data, flags = _sign_request(message[1:])
                if blob == self._blob:
                    made = self._sign(data, flags)
                    return bytes([Message.SIGNED]) + string(string(made.algorithm) + string(made.value))
        except ValueError:
            pass
        return bytes([Message.FAILURE])

    def _sign(self, data: bytes, flags: int) -> _Signature:
        """Raises ValueError for RSA with SHA-1, which OpenSSH has disabled."""
        key = self._private
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return _Signature(b"ssh-ed25519", key.sign(data))
        if isinstance(key, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(key.sign(data, ec.ECDSA(_CURVE_HASHES[key.key_size])))
            name = f"ecdsa-sha2-nistp{key.key_size}".encode()
            return _Signature(name, _integer(r) + _integer(s))
        if flags & _RSA_SHA2_512:
            return _Signature(b"rsa-sha2-512", key.sign(data, padding.PKCS1v15(), hashes.SHA512()))
        if flags & _RSA_SHA2_256:
            return _Signature(b"rsa-sha2-256", key.sign(data, padding.PKCS1v15(), hashes.SHA256()))
        raise ValueError


def _uid_of(connection: socket.socket) -> int:
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(peer)[1])


def _sign_request(body: bytes) -> tuple[bytes, bytes, int]:
    blob, rest = take(body)
    data, rest = take(rest)
    if len(rest) != 4:
        raise ValueError
    return blob, data, int.from_bytes(rest)


def _integer(value: int) -> bytes:
    """An mpint (RFC 4251, section 5) of a positive number."""
    return string(value.to_bytes(value.bit_length() // 8 + 1))
