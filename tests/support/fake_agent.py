"""A small agent with software keys: it implements the Unix socket protocol, checks requests, and can misbehave.

It is written from docs/protocol.md with `struct` only, so that the provider is tested against that page, not hsmd's codec.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from tests.support.provider_reference import key_digest

HEADER = struct.Struct(">IBQ")
HELLO, WELCOME, PING, PONG, KEY_OPERATION, RESULT, ERROR, DRAIN, EVENT = (
    1,
    2,
    3,
    4,
    0x10,
    0x11,
    0x12,
    0x30,
    0x81,
)
WELCOME_BODY = struct.pack(">BIII", 1, 0, 65_536, 64)
ERROR_REFUSED, ERROR_PURPOSE = 10, 11

RSA_PKCS1 = {0x0401: hashes.SHA256(), 0x0501: hashes.SHA384(), 0x0601: hashes.SHA512()}
RSA_PSS = {0x0804: hashes.SHA256(), 0x0805: hashes.SHA384(), 0x0806: hashes.SHA512()}
ECDSA = {0x0403: hashes.SHA256(), 0x0503: hashes.SHA384(), 0x0603: hashes.SHA512()}
ED25519 = 0x0807


class Fault(Enum):
    """How to misbehave on all connections, until changed."""

    NONE = auto()
    SILENT = auto()
    """Reads the request and sends no answer."""
    SILENT_AFTER_WELCOME = auto()
    HALF_ANSWER = auto()
    HUGE_LENGTH = auto()
    TINY_LENGTH = auto()
    CLOSE_AT_ONCE = auto()
    CLOSE_AFTER_WELCOME = auto()
    ERROR_BEFORE_READING = auto()
    """Sends an error with id 0 and closes, without reading the request."""
    NO_WELCOME = auto()
    OTHER_VERSION = auto()
    OTHER_REQUEST = auto()
    UNKNOWN_KIND = auto()
    SHORT_ANSWER = auto()
    LONG_ANSWER = auto()
    MEGABYTE_ANSWER = auto()
    NOT_DER = auto()
    CHATTY = auto()
    """Sends ping, drain and events first, in pieces of one byte, and requires a pong."""


@dataclass(frozen=True, slots=True)
class Request:
    """One key operation as received."""

    deadline_ms: int
    purpose: int
    scheme: int
    key: bytes
    data: bytes


class Agent:
    """Serves one socket in background threads, as a context manager; `requests` collects the well-formed ones."""

    def __init__(self, path: Path, keys: list[PrivateKeyTypes]) -> None:
        self.path = path
        self.fault = Fault.NONE
        self.error: tuple[int, bytes] | None = None
        """Code and text with which all requests are answered."""
        self.requests: list[Request] = []
        self.faults_found: list[str] = []
        """Faults found in requests; the fixture checks that there are none."""
        self._keys = {key_digest(key.public_key()): key for key in keys}
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, accepting: bool = True, backlog: int = 128) -> None:
        """Listen; without `accepting`, connections stay in the backlog."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        os.chmod(self.path, 0o666)
        self._listener.listen(backlog)
        if accepting:
            self._thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Close the socket, remove its path and close all connections."""
        if self._listener is None:
            return
        self.path.unlink(missing_ok=True)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = None
        with self._lock:
            for connection in self._connections:
                connection.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(5)
            self._thread = None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._answer(connection)
        except OSError:
            pass
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _answer(self, connection: socket.socket) -> None:
        if self.fault is Fault.CLOSE_AT_ONCE:
            return
        if self.fault is Fault.ERROR_BEFORE_READING:
            connection.sendall(frame(ERROR, 0, error_body(21, b"too many connections")))
            return
        if read_frame(connection) != (HELLO, 0, b"HSMD\x01\x01" + bytes(4)):
            self.faults_found.append("the first frame is not the expected hello")
        kind, request_id, body = read_frame(connection)
        if kind != KEY_OPERATION or request_id == 0:
            self.faults_found.append(f"kind {kind} with id {request_id} instead of a key operation")
        deadline_ms, purpose, scheme, key = struct.unpack_from(">IBH32s", body)
        request = Request(deadline_ms, purpose, scheme, key, body[39:])
        self.requests.append(request)
        self._reply(connection, request_id, request)
        connection.recv(1)  # until the caller closes

    def _reply(self, connection: socket.socket, request_id: int, request: Request) -> None:
        welcome = frame(WELCOME, 0, WELCOME_BODY)
        misbehaviour = MISBEHAVIOURS.get(self.fault)
        if misbehaviour is not None:
            misbehaviour(connection, request_id)
            return
        kind, body = self._carry_out(request)
        if self.fault is Fault.CHATTY:
            self._send_unrelated_frames(connection, welcome, frame(kind, request_id, body))
            return
        connection.sendall(welcome + frame(kind, request_id, body))

    def _send_unrelated_frames(self, connection: socket.socket, welcome: bytes, answer: bytes) -> None:
        small_talk = (
            frame(PING, 7)
            + frame(EVENT, 0, b"{}" * 3000)
            + frame(DRAIN, 0, bytes(4))
            + frame(0xF0, 9, b"new")
        )
        connection.sendall(welcome[:3])
        for byte in welcome[3:] + small_talk[:60]:
            connection.sendall(bytes([byte]))
        connection.sendall(small_talk[60:])
        if read_frame(connection) != (PONG, 7, b""):
            self.faults_found.append("the ping was not answered")
        for byte in answer:
            connection.sendall(bytes([byte]))

    def _carry_out(self, request: Request) -> tuple[int, bytes]:
        if self.error is not None:
            return ERROR, error_body(*self.error)
        key = self._keys.get(request.key)
        if key is None:
            return ERROR, error_body(ERROR_REFUSED, b"not with this key")
        fault_found = fault_in(request)
        if fault_found:
            self.faults_found.append(fault_found)
            return ERROR, error_body(ERROR_PURPOSE, fault_found.encode())
        if request.purpose == 5:
            return self._misbehave(premaster_secret(key, request.data))
        return self._misbehave(signature(key, request.scheme, request.data))

    def _misbehave(self, answer: bytes) -> tuple[int, bytes]:
        if self.fault is Fault.SHORT_ANSWER:
            answer = answer[:-1]
        if self.fault is Fault.LONG_ANSWER:
            answer += b"\0"
        if self.fault is Fault.NOT_DER:
            answer = bytes(len(answer))
        return RESULT, answer


def frame(kind: int, request_id: int, body: bytes = b"") -> bytes:
    """One frame."""
    return HEADER.pack(len(body) + 9, kind, request_id) + body


def error_body(code: int, text: bytes, retry_after_ms: int = 0) -> bytes:
    """The body of an error frame."""
    return struct.pack(">HI", code, retry_after_ms) + text


def read_frame(connection: socket.socket) -> tuple[int, int, bytes]:
    """The next frame. Raises OSError at the end of the connection."""
    length, kind, request_id = HEADER.unpack(_read(connection, HEADER.size))
    return kind, request_id, _read(connection, length - 9)


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def _welcome_then(*answers: bytes) -> Callable[[socket.socket, int], None]:
    return lambda connection, request_id: connection.sendall(
        frame(WELCOME, 0, WELCOME_BODY) + b"".join(answers)
    )


def _close(connection: socket.socket, request_id: int) -> None:
    connection.sendall(frame(WELCOME, 0, WELCOME_BODY))
    connection.shutdown(socket.SHUT_RDWR)


MISBEHAVIOURS: dict[Fault, Callable[[socket.socket, int], None]] = {
    Fault.SILENT: lambda connection, request_id: None,
    Fault.SILENT_AFTER_WELCOME: _welcome_then(),
    Fault.HALF_ANSWER: _welcome_then(frame(RESULT, 1, bytes(64))[:40]),
    Fault.HUGE_LENGTH: _welcome_then(struct.pack(">IBQ", 0xFFFFFFFF, RESULT, 1)),
    Fault.TINY_LENGTH: _welcome_then(struct.pack(">IBQ", 8, RESULT, 1)),
    Fault.CLOSE_AFTER_WELCOME: _close,
    Fault.NO_WELCOME: lambda connection, request_id: connection.sendall(frame(RESULT, request_id, bytes(64))),
    Fault.OTHER_VERSION: lambda connection, request_id: connection.sendall(
        frame(WELCOME, 0, b"\2" + WELCOME_BODY[1:])
    ),
    Fault.OTHER_REQUEST: _welcome_then(frame(RESULT, 2, bytes(64))),
    Fault.UNKNOWN_KIND: _welcome_then(frame(0x7F, 1)),
    Fault.MEGABYTE_ANSWER: _welcome_then(frame(RESULT, 1, bytes(1_000_000))),
}


def fault_in(request: Request) -> str:
    """The fault in a request's purpose, scheme or data; empty if there is none."""
    data = request.data
    if not 1 <= request.deadline_ms <= 10_000:
        return f"a deadline of {request.deadline_ms} ms"
    if (request.scheme == 0) != (request.purpose == 5):
        return f"scheme {request.scheme:#06x} for purpose {request.purpose}"
    if request.purpose in (1, 2):
        role = b"server" if request.purpose == 1 else b"client"
        head = b" " * 64 + b"TLS 1.3, " + role + b" CertificateVerify\0"
        return (
            ""
            if data.startswith(head) and len(data) - len(head) in (32, 48)
            else "not a TLS 1.3 CertificateVerify"
        )
    if request.purpose == 3:
        is_exchange = (
            len(data) == 68 + data[67] and data[64] == 3 and data[65:67] in (b"\0\x17", b"\0\x18", b"\0\x1d")
        )
        return "" if is_exchange else "not a ServerKeyExchange"
    if request.purpose == 4:
        return "" if handshake_types(data)[:2] == [1, 2] else "not a transcript"
    return "" if request.purpose in (5, 8) else f"purpose {request.purpose}"


def handshake_types(data: bytes) -> list[int]:
    """The types of the handshake messages in `data`; empty unless they fill it exactly."""
    types, at = [], 0
    while at + 4 <= len(data):
        types.append(data[at])
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    return types if at == len(data) else []


def signature(key: PrivateKeyTypes, scheme: int, data: bytes) -> bytes:
    """Sign with a TLS SignatureScheme. Raises KeyError if it does not match the key."""
    if isinstance(key, ed25519.Ed25519PrivateKey) and scheme == ED25519:
        return key.sign(data)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(ECDSA[scheme]))
    if not isinstance(key, rsa.RSAPrivateKey):
        raise KeyError(scheme)
    if scheme in RSA_PKCS1:
        return key.sign(data, padding.PKCS1v15(), RSA_PKCS1[scheme])
    algorithm = RSA_PSS[scheme]
    return key.sign(data, padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), algorithm)


def premaster_secret(key: PrivateKeyTypes, data: bytes) -> bytes:
    """The premaster secret, or for malformed ciphertexts 48 bytes that depend only on the ciphertext."""
    assert isinstance(key, rsa.RSAPrivateKey)
    stand_in = hashlib.sha384(b"stand-in" + data).digest()
    try:
        premaster = key.decrypt(data, padding.PKCS1v15())
    except ValueError:
        return stand_in
    return premaster if len(premaster) == 48 and premaster[:2] == b"\3\3" else stand_in
