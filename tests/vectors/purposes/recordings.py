"""From recorded TLS connections to the bytes that were signed in them, and their signatures."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand


@dataclass
class Recording:
    """Both directions of one connection."""

    client: bytes
    server: bytes


def record(source: str, key: str, purpose: str, scheme: int, data: bytes, signature: bytes) -> dict:
    return {
        "source": source,
        "key": key,
        "purpose": purpose,
        "scheme": scheme,
        "data": data,
        "signature": signature,
    }


def tls12_records(source: str, key: str, recording: Recording):
    client, server = messages12(recording.client), messages12(recording.server)
    exchange = dict(server).get(12)
    if exchange:
        parameters, rest = exchange[: 4 + exchange[3]], exchange[4 + exchange[3] :]
        randoms = client[0][1][2:34] + server[0][1][2:34]
        yield record(source, key, "tls12-server", *signed(randoms + parameters, rest))
    # A NewSessionTicket may follow ServerHelloDone, but only after the client's CertificateVerify.
    messages = [client[0], *server[: index(server, 14) + 1], *client[1 : index(client, 15)]]
    transcript = b"".join(encode(*message) for message in messages)
    yield record(source, key, "tls12-client", *signed(transcript, dict(client)[15]))


def tls13_records(source: str, key: str, recording: Recording, log: str, hash_name: str, key_bytes: int):
    secrets = {
        line.split()[0]: bytes.fromhex(line.split()[2]) for line in log.splitlines() if line[:1] not in "#"
    }
    server = messages13(recording.server, secrets["SERVER_HANDSHAKE_TRAFFIC_SECRET"], hash_name, key_bytes)
    client = messages13(recording.client, secrets["CLIENT_HANDSHAKE_TRAFFIC_SECRET"], hash_name, key_bytes)
    order = [client[0], *server[: index(server, 20) + 1], *client[1:]]
    for role, place in (("server", index(order, 15)), ("client", len(order) - 1 - index(order[::-1], 15))):
        transcript = b"".join(encode(*message) for message in order[:place])
        content = b" " * 64 + f"TLS 1.3, {role} CertificateVerify".encode() + b"\0"
        content += hashlib.new(hash_name, transcript).digest()
        yield record(source, key, f"tls13-{role}", *signed(content, order[place][1]))


def index(messages: list[tuple[int, bytes]], kind: int) -> int:
    return [message[0] for message in messages].index(kind)


def signed(data: bytes, tail: bytes) -> tuple[int, bytes, bytes]:
    """Scheme, data and signature; `tail` is a DigitallySigned struct."""
    return int.from_bytes(tail[:2]), data, tail[4 : 4 + int.from_bytes(tail[2:4])]


def encode(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3) + body


def messages12(stream: bytes) -> list[tuple[int, bytes]]:
    """Handshake messages up to ChangeCipherSpec."""
    plain = b""
    for kind, fragment in tls_records(stream):
        if kind == 20:
            break
        if kind == 22:
            plain += fragment[5:]
    return split(plain)


def messages13(stream: bytes, secret: bytes, hash_name: str, key_bytes: int) -> list[tuple[int, bytes]]:
    """The plain hello, then what the handshake traffic secret opens up to Finished."""
    algorithm = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}[hash_name]
    opener, iv = AESGCM(expand(algorithm, secret, b"key", key_bytes)), expand(algorithm, secret, b"iv", 12)
    plain, number = b"", 0
    for kind, fragment in tls_records(stream):
        if kind == 22:
            plain += fragment[5:]
        if kind != 23:
            continue
        nonce = (int.from_bytes(iv) ^ number).to_bytes(12)
        opened = opener.decrypt(nonce, fragment[5:], fragment[:5]).rstrip(b"\0")
        number += 1
        plain += opened[:-1]
        if any(message[0] == 20 for message in split(plain)):
            break
    return split(plain)


def expand(algorithm, secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label with an empty context (RFC 8446, section 7.1)."""
    info = size.to_bytes(2) + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
    return HKDFExpand(algorithm, size, info).derive(secret)


def tls_records(stream: bytes):
    at = 0
    while at + 5 <= len(stream):
        end = at + 5 + int.from_bytes(stream[at + 3 : at + 5])
        yield stream[at], stream[at:end]
        at = end


def split(plain: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + 4 <= len(plain):
        end = at + 4 + int.from_bytes(plain[at + 1 : at + 4])
        found.append((plain[at], plain[at + 4 : end]))
        at = end
    return found
