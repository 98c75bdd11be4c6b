"""A TLS client that records the bytes that the server signed and their signature."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 10.0
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_HANDSHAKE = 22
_CLIENT_HELLO, _SERVER_HELLO, _SERVER_KEY_EXCHANGE, _CLIENT_KEY_EXCHANGE, _CERTIFICATE_VERIFY = (
    1,
    2,
    12,
    16,
    15,
)
_NAMED_CURVE = 3


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal, as in the audit log."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Proof:
    """SHA-256, in hex, of the bytes that a TLS 1.2 server signed and of its signature, like `asked` and `answer` in the audit log."""

    asked: str
    answer: str


@dataclass(frozen=True, slots=True)
class Handshake:
    """A handshake that the client accepted; `proof` is None except for TLS 1.2 with (EC)DHE."""

    version: str
    cipher: str
    seconds: float
    proof: Proof | None


def client_context(authority: Path, version: str = "", ciphers: str = "") -> ssl.SSLContext:
    """A context that verifies the server's certificate and name; `version` is 1.2 or 1.3, empty for either."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    context.minimum_version = VERSIONS.get(version, ssl.TLSVersion.TLSv1_2)
    context.maximum_version = VERSIONS.get(version, ssl.TLSVersion.TLSv1_3)
    if ciphers:
        context.set_ciphers(ciphers)
    return context


def shake_hands(
    address: tuple[str, int], name: str, context: ssl.SSLContext, timeout_s: float = TIMEOUT_S
) -> Handshake:
    """One full handshake. Raises ssl.SSLError or OSError (TimeoutError after `timeout_s` without a byte)."""
    began = time.monotonic()
    with socket.create_connection(address, timeout=timeout_s) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
        sent, received = _carry(raw, tls, incoming, outgoing)
    chosen = tls.cipher()
    assert chosen is not None
    return Handshake(tls.version() or "", chosen[0], time.monotonic() - began, _proof(sent, received))


def _carry(
    raw: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
) -> tuple[bytes, bytes]:
    sent, received = bytearray(), bytearray()
    while True:
        try:
            tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        data = outgoing.read()
        if data:
            raw.sendall(data)
            sent += data
        if done:
            return bytes(sent), bytes(received)
        data = raw.recv(65_536)
        if not data:
            raise ConnectionResetError("the server closed the connection during the handshake")
        incoming.write(data)
        received += data


# --- parsing the recorded bytes ---


def _messages(stream: bytes) -> dict[int, bytes]:
    """The unencrypted handshake messages at the beginning of one direction, by type (RFC 5246, 6.2.1 and 7.4)."""
    joined, at = bytearray(), 0
    while at + 5 <= len(stream) and stream[at] == _HANDSHAKE:
        size = struct.unpack_from(">H", stream, at + 3)[0]
        joined += stream[at + 5 : at + 5 + size]
        at += 5 + size
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(joined):
        size = int.from_bytes(joined[at + 1 : at + 4], "big")
        if at + 4 + size > len(joined):
            break
        found.setdefault(joined[at], bytes(joined[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def _proof(sent: bytes, received: bytes) -> Proof | None:
    server = _messages(received)
    exchange = server.get(_SERVER_KEY_EXCHANGE)
    if exchange is None:
        return None
    client_random, server_random = _messages(sent)[_CLIENT_HELLO][2:34], server[_SERVER_HELLO][2:34]
    parameters, signature = split_key_exchange(exchange)
    return Proof(sha256(client_random + server_random + parameters), sha256(signature))


def split_key_exchange(message: bytes) -> tuple[bytes, bytes]:
    """ServerECDHParams and signature of a ServerKeyExchange (RFC 8422, 5.4)."""
    assert message[0] == _NAMED_CURVE
    end = 4 + message[3]
    return message[:end], _vector(message[end + 2 :])


def _vector(data: bytes) -> bytes:
    size = int.from_bytes(data[:2], "big")
    assert len(data) == size + 2
    return data[2:]


_DUMPED = re.compile(
    r"^[<>]{3} [^\n]*Handshake \[length [0-9a-f]+\], (\w+)\n((?:    [0-9a-f ]+\n)+)", re.MULTILINE
)


def dumped_messages(dump: str) -> dict[str, bytes]:
    """Handshake messages by name, without their headers, from the output of `openssl s_client -msg`."""
    return {name: bytes.fromhex("".join(lines.split()))[4:] for name, lines in _DUMPED.findall(dump)}


def dumped_signature(dump: str) -> bytes:
    """The server's signature in such a dump: of its CertificateVerify (RFC 8446, 4.4.3) or ServerKeyExchange."""
    messages = dumped_messages(dump)
    if "CertificateVerify" in messages:
        return _vector(messages["CertificateVerify"][2:])
    return split_key_exchange(messages["ServerKeyExchange"])[1]


def dumped_premaster(dump: str) -> bytes:
    """The EncryptedPreMasterSecret of the ClientKeyExchange in such a dump (RFC 5246, 7.4.7.1)."""
    return _vector(dumped_messages(dump)["ClientKeyExchange"])
