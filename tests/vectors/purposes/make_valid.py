"""Writes valid.json: what OpenSSL and GnuTLS really sign, from recorded handshakes and from `openssl req`.

Run by hand with openssl, gnutls-serv and gnutls-cli installed; the tests only read the result. A small proxy
records both directions of each handshake. TLS 1.3 is decrypted with the key log. Every record is verified
against the signature on the wire before it is written, so the file holds nothing that a peer has not
accepted.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime as dt
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from recordings import Recording, messages12, record, tls12_records, tls13_records  # noqa: E402
from signatures import verify  # noqa: E402

TLS_NAMES = {
    0x0401: "RSA+SHA256", 0x0501: "RSA+SHA384", 0x0601: "RSA+SHA512",
    0x0804: "rsa_pss_rsae_sha256", 0x0805: "rsa_pss_rsae_sha384", 0x0806: "rsa_pss_rsae_sha512",
    0x0403: "ECDSA+SHA256", 0x0503: "ECDSA+SHA384", 0x0603: "ECDSA+SHA512", 0x0807: "ed25519",
}  # fmt: skip
RSA_SCHEMES = (0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806)
EC_SCHEMES = (0x0403, 0x0503, 0x0603)
TLS12 = {
    "rsa-2048": RSA_SCHEMES,
    "p-256": EC_SCHEMES,
    "p-384": EC_SCHEMES,
    "p-521": EC_SCHEMES,
    "ed25519": (0x0807,),
}
TLS13 = {
    "rsa-2048": RSA_SCHEMES[3:],
    "p-256": (0x0403,),
    "p-384": (0x0503,),
    "p-521": (0x0603,),
    "ed25519": (0x0807,),
}
SUITES13 = {"TLS_AES_128_GCM_SHA256": ("sha256", 16), "TLS_AES_256_GCM_SHA384": ("sha384", 32)}
GROUPS = ("X25519", "P-256", "P-384", "P-521", "X448")
WAIT_SECONDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE / "valid.json")
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as directory:
        keys = make_keys(Path(directory))
        records = [
            *openssl_tls12(keys),
            *openssl_tls13(keys),
            *premasters(keys),
            *gnutls(keys),
            *requests(keys),
        ]
    for made in records:
        if made["signature"]:
            verify(keys[made["key"]].spki, made["scheme"], made["signature"], made["data"])
    output.write_text(json.dumps(as_json(keys, records), indent=1) + "\n")
    print(f"{len(records)} valid forms")


@dataclass
class Key:
    """A key pair in files, with a self-signed certificate."""

    name: str
    spki: bytes
    key_file: Path
    certificate_file: Path


def make_keys(directory: Path) -> dict[str, Key]:
    private = {
        "rsa-2048": rsa.generate_private_key(65537, 2048),
        "p-256": ec.generate_private_key(ec.SECP256R1()),
        "p-384": ec.generate_private_key(ec.SECP384R1()),
        "p-521": ec.generate_private_key(ec.SECP521R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
    }
    return {name: _write_key(directory, name, key) for name, key in private.items()}


def _write_key(directory: Path, name: str, private) -> Key:
    encoding, no_password = serialization.Encoding, serialization.NoEncryption()
    key_file, certificate_file = directory / f"{name}.key", directory / f"{name}.crt"
    key_file.write_bytes(private.private_bytes(encoding.PEM, serialization.PrivateFormat.PKCS8, no_password))
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{name}.example")])
    begin = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    end, serial = begin + dt.timedelta(days=36500), x509.random_serial_number()
    builder = x509.CertificateBuilder(subject, subject, private.public_key(), serial, begin, end)
    certificate = builder.sign(private, None if name == "ed25519" else hashes.SHA256())
    certificate_file.write_bytes(certificate.public_bytes(encoding.PEM))
    spki = private.public_key().public_bytes(encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Key(name, spki, key_file, certificate_file)


def as_json(keys: dict[str, Key], records: list[dict]) -> dict:
    def text(value: bytes) -> str:
        return base64.b64encode(value).decode()

    return {
        "keys": {name: text(key.spki) for name, key in keys.items()},
        "records": [{**r, "data": text(r["data"]), "signature": text(r["signature"])} for r in records],
    }


# Handshakes


def openssl_tls12(keys):
    for name, schemes in TLS12.items():
        for number, scheme in enumerate(schemes):
            recording = openssl(keys[name], "-tls1_2", scheme, GROUPS[(number + len(name)) % len(GROUPS)])
            yield from tls12_records("openssl", name, recording)
    for group in GROUPS:
        yield from tls12_records("openssl", "p-256", openssl(keys["p-256"], "-tls1_2", 0x0403, group))


def openssl_tls13(keys):
    for suite, secrets in SUITES13.items():
        for name, schemes in TLS13.items():
            for scheme in schemes:
                with tempfile.NamedTemporaryFile("r") as log:
                    options = {"client": ["-keylogfile", log.name], "both": ["-ciphersuites", suite]}
                    recording = openssl(keys[name], "-tls1_3", scheme, "X25519", **options)
                    yield from tls13_records("openssl", name, recording, log.read(), *secrets)


def premasters(keys):
    key = keys["rsa-2048"]
    recording = openssl(key, "-tls1_2", 0x0401, "X25519", both=["-cipher", "AES128-GCM-SHA256"])
    exchange = dict(messages12(recording.client))[16]
    yield record("openssl", key.name, "tls12-rsa-premaster", 0, exchange[2:], b"")
    yield from tls12_records("openssl, RSA key exchange", key.name, recording)


def openssl(key: Key, version: str, scheme: int, group: str, client=(), both=()) -> Recording:
    curve = {"p-256": ":P-256", "p-384": ":P-384", "p-521": ":P-521"}.get(key.name, "")
    common = [
        "-cert",
        key.certificate_file,
        "-key",
        key.key_file,
        "-sigalgs",
        TLS_NAMES[scheme],
        "-groups",
        group + (curve if not curve.endswith(group) else ""),
        version,
        *both,
    ]
    return record_handshake(
        lambda port: [
            "openssl",
            "s_server",
            "-accept",
            f"127.0.0.1:{port}",
            "-Verify",
            "1",
            "-naccept",
            "1",
            "-client_sigalgs",
            TLS_NAMES[scheme],
            *common,
        ],
        lambda port: ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *common, *client],
    )


def gnutls(keys):
    for name in TLS12:
        yield from tls12_records(
            "gnutls", name, gnutls_handshake(keys[name], "NORMAL:-VERS-ALL:+VERS-TLS1.2", None)
        )
    for suite, cipher in {
        "TLS_AES_128_GCM_SHA256": "AES-128-GCM",
        "TLS_AES_256_GCM_SHA384": "AES-256-GCM",
    }.items():
        for name in TLS13:
            with tempfile.NamedTemporaryFile("r") as log:
                priority = f"NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+{cipher}"
                recording = gnutls_handshake(keys[name], priority, log.name)
                yield from tls13_records("gnutls", name, recording, log.read(), *SUITES13[suite])


def gnutls_handshake(key: Key, priority: str, log: str | None) -> Recording:
    common = ["--x509certfile", key.certificate_file, "--x509keyfile", key.key_file, "--priority", priority]
    return record_handshake(
        lambda port: ["gnutls-serv", "--echo", "-q", "--port", str(port), "--require-client-cert", *common],
        lambda port: ["gnutls-cli", "--insecure", "-p", str(port), "127.0.0.1", *common],
        {"SSLKEYLOGFILE": log} if log else {},
    )


def record_handshake(server, client, environment=None) -> Recording:
    """Start both commands with a recording proxy between them; the client leaves when its input ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    server_port, proxy_port = free_port(), listener.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    serving = subprocess.Popen([str(part) for part in server(server_port)], stdin=subprocess.PIPE, **quiet)
    upstream = connect(server_port)
    calling = subprocess.Popen(
        [str(part) for part in client(proxy_port)],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
        **quiet,
    )
    try:
        listener.settimeout(WAIT_SECONDS)
        downstream, _ = listener.accept()
        sent, received = bytearray(), bytearray()
        pumps = [
            threading.Thread(target=pump, args=ends)
            for ends in ((downstream, upstream, sent), (upstream, downstream, received))
        ]
        for thread in pumps:
            thread.start()
        calling.wait(WAIT_SECONDS)
        for thread in pumps:
            thread.join(WAIT_SECONDS)
        return Recording(bytes(sent), bytes(received))
    finally:
        for process in (calling, serving):
            process.kill()
            process.wait()
        listener.close()


def pump(source: socket.socket, target: socket.socket, copy: bytearray) -> None:
    with contextlib.suppress(OSError):
        source.settimeout(WAIT_SECONDS)
        while chunk := source.recv(65536):
            copy += chunk
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)


def connect(port: int) -> socket.socket:
    """A connection to a server that is still starting."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


# Certification requests and self-signed certificates


def requests(keys):
    for name, schemes in TLS12.items():
        for scheme in schemes:
            yield openssl_req(keys[name], scheme, "x509-request", [])
            yield openssl_req(keys[name], scheme, "x509-self-signed", ["-x509", "-days", "90"])


def openssl_req(key: Key, scheme: int, purpose: str, options: list[str]) -> dict:
    digest = {
        4: "-sha256",
        5: "-sha384",
        6: "-sha512",
        8: f"-sha{ {4: 256, 5: 384, 6: 512}.get(scheme & 0xFF, 256) }",
    }
    pss = (
        ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"]
        if 0x0804 <= scheme <= 0x0806
        else []
    )
    command = [
        "openssl",
        "req",
        "-new",
        "-key",
        key.key_file,
        "-subj",
        "/C=CH/O=Example/CN=www.example",
        "-addext",
        "subjectAltName=DNS:www.example",
        "-outform",
        "DER",
        digest[scheme >> 8],
        *pss,
        *options,
    ]
    der = subprocess.run([str(part) for part in command], check=True, capture_output=True).stdout
    if options:
        certificate = x509.load_der_x509_certificate(der)
        return record(
            "openssl", key.name, purpose, scheme, certificate.tbs_certificate_bytes, certificate.signature
        )
    request = x509.load_der_x509_csr(der)
    return record("openssl", key.name, purpose, scheme, request.tbs_certrequest_bytes, request.signature)


if __name__ == "__main__":
    main()
