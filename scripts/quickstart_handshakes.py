"""The handshakes of scripts/quickstart: made with openssl s_client and curl, and compared with the audit log."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from quickstart_deployment import Deployment, clean_environment

HANDSHAKE_S = 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """A handshake to make; `s_client` and `curl` are the options for it."""

    name: str
    key: str
    purpose: str
    s_client: tuple[str, ...]
    curl: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Handshake:
    """The result of a handshake. `digest` is from the wire; `verified` if the audit record `audit_record` has the same."""

    handshake: str
    protocol: str
    cipher: str
    signature: str | None
    verified: bool
    audit_record: int | None
    digest: str


_TLS13 = (("-tls1_3",), ("--tlsv1.3",))
_TLS12 = (("-tls1_2",), ("--tlsv1.2", "--tls-max", "1.2"))
_RSA_KX = ((*_TLS12[0], "-cipher", "AES128-GCM-SHA256"), (*_TLS12[1], "--ciphers", "AES128-GCM-SHA256"))
WANTED_TLS13 = (
    Wanted("tls13-ecdsa-p256", "p256", "tls13-server", *_TLS13),
    Wanted("tls13-rsa-pss", "rsa", "tls13-server", *_TLS13),
    Wanted("tls13-ed25519", "ed25519", "tls13-server", *_TLS13),
)
WANTED_TLS12 = (
    Wanted("tls12-ecdhe-ecdsa", "p256", "tls12-server", *_TLS12),
    Wanted("tls12-ecdhe-rsa", "rsa", "tls12-server", *_TLS12),
    Wanted("tls12-rsa-kx", "rsa-kx", "tls12-rsa-premaster", *_RSA_KX),
)

SCHEMES = {
    0x0401: "rsa_pkcs1_sha256", 0x0501: "rsa_pkcs1_sha384", 0x0601: "rsa_pkcs1_sha512",
    0x0403: "ecdsa_secp256r1_sha256", 0x0503: "ecdsa_secp384r1_sha384", 0x0603: "ecdsa_secp521r1_sha512",
    0x0804: "rsa_pss_rsae_sha256", 0x0805: "rsa_pss_rsae_sha384", 0x0806: "rsa_pss_rsae_sha512", 0x0807: "ed25519",
}  # fmt: skip
"""Names of RFC 8446, section 4.2.3."""


def make(deployment: Deployment, wanted: Wanted) -> Handshake:
    """Make one handshake with s_client, then one with curl."""
    output = _s_client(deployment, wanted)
    protocol, cipher = _summary(output)
    scheme, secret_use = _on_the_wire(output, wanted)
    digest = hashlib.sha256(secret_use).hexdigest() if secret_use else ""
    record = _record(deployment, wanted, digest) if digest else None
    verified = record is not None and "Verify return code: 0 (ok)" in output and _curl(deployment, wanted)
    return Handshake(wanted.name, protocol, cipher, scheme, verified, record, digest)


def _s_client(deployment: Deployment, wanted: Wanted) -> str:
    """The output of s_client, with the handshake messages in hexadecimal (TLS 1.3: decrypted)."""
    command = [
        "openssl", "s_client", "-connect", f"127.0.0.1:{deployment.ports[wanted.key]}", "-servername", "localhost",
        "-CAfile", str(deployment.ca.file), "-verify_return_error", "-verify_hostname", "localhost",
        "-msg", "-ign_eof", *wanted.s_client,
    ]  # fmt: skip
    return _run(command, b"GET / HTTP/1.0\r\n\r\n").stdout.decode("utf-8", "replace")


def _curl(deployment: Deployment, wanted: Wanted) -> bool:
    """Whether curl receives the page, with a handshake of its own."""
    url = f"https://localhost:{deployment.ports[wanted.key]}/"
    ours = ["--noproxy", "*", "--cacert", str(deployment.ca.file)]
    done = _run(["curl", "--silent", "--show-error", "--fail", *ours, *wanted.curl, url])
    return done.returncode == 0 and wanted.key.encode() in done.stdout


def _run(command: list[str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = clean_environment()
    return subprocess.run(
        command, input=given, capture_output=True, timeout=HANDSHAKE_S, check=False, env=environment
    )


def _summary(output: str) -> tuple[str, str]:
    found = re.search(r"^New, (TLSv[\d.]+), Cipher is (\S+)$", output, re.MULTILINE)
    return (found[1], found[2]) if found else ("none", "none")


def _on_the_wire(output: str, wanted: Wanted) -> tuple[str | None, bytes]:
    """(name of the signature scheme, the signature), or (None, the encrypted premaster secret) for RSA key exchange."""
    messages = dict(_messages(output))
    if wanted.purpose == "tls12-rsa-premaster":  # RFC 5246, section 7.4.7.1: the body is one vector
        return None, messages.get("ClientKeyExchange", b"")[6:]
    carrier = "CertificateVerify" if wanted.purpose == "tls13-server" else "ServerKeyExchange"
    body = messages.get(carrier, b"")[4:]
    if (
        carrier == "ServerKeyExchange"
    ):  # RFC 8422, section 5.4: curve type, named curve, point; then the signature
        body = body[4 + body[3] :] if len(body) > 3 else b""
    scheme, length = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
    signature = body[4:]
    if len(signature) != length:
        return None, b""
    return SCHEMES.get(scheme, f"0x{scheme:04x}"), signature


def _messages(output: str) -> Iterator[tuple[str, bytes]]:
    """(name, bytes with the four-byte header) of each handshake message in the output of `s_client -msg`."""
    for found in _DUMPED.finditer(output):
        yield found[1], bytes.fromhex(found[2])


_DUMPED = re.compile(
    r"^(?:<<<|>>>) TLS [\d.]+, Handshake \[length [0-9a-f]+\], (\w+)\n((?:    (?:[0-9a-f]{2} ?)+\n)+)",
    re.MULTILINE,
)


def _record(deployment: Deployment, wanted: Wanted, digest: str) -> int | None:
    """The index of the record with the digest: of the request for RSA key exchange, otherwise of the answer."""
    records: list[dict[str, Any]] = deployment.hsmd("audit", "show", "--key", wanted.key, "--count", "20")[
        "records"
    ]
    for attempt in reversed(records):
        outcome = attempt.get("outcome") or {}
        if attempt.get("purpose") != wanted.purpose or outcome.get("result") != "performed":
            continue
        if wanted.purpose == "tls12-rsa-premaster" and attempt.get("asked") == digest:
            return int(attempt["index"])
        if outcome.get("answer") == digest:
            return int(outcome["index"])
    return None
