"""The OpenSSL command opens envelopes of the RSA suites, and bare wrapped keys, and makes them, with no code of ours."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsmd.envelopes.bare import bare_of, open_bare
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Kind, Suite
from hsmd.envelopes.sealing import open_envelope, seal_private_key, seal_secret_key
from hsmd.errors import EnvelopeInvalid
from tests.support.envelopes import ABOUT, RSA_SUITES, contents, pkcs8, rsa_key

RFC_5649_IV = "A65959A6"


class OpenSsl:
    """The command with the recipient's key in a directory."""

    def __init__(self, directory: Path, suite: Suite) -> None:
        self.directory = directory
        name = "sha1" if "sha1" in suite else "sha256"
        self.oaep = [f"rsa_oaep_md:{name}", f"rsa_mgf1_md:{name}"]
        pem = rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (directory / "key.pem").write_bytes(pem)

    def run(self, *arguments: str, data: bytes = b"") -> bytes:
        """The output of a command for some input. Raises CalledProcessError."""
        (self.directory / "in").write_bytes(data)
        source = ["in"] if arguments[0] == "dgst" else ["-in", "in"]
        command = ["openssl", *arguments, "-out", "out", *source]
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True, timeout=30)
        return (self.directory / "out").read_bytes()

    def rsa(self, direction: str, data: bytes) -> bytes:
        """`-encrypt` or `-decrypt` with OAEP."""
        options = [option for each in ["rsa_padding_mode:oaep", *self.oaep] for option in ("-pkeyopt", each)]
        return self.run("pkeyutl", direction, "-inkey", "key.pem", *options, data=data)

    def kwp(self, direction: str, aes_key: bytes, data: bytes) -> bytes:
        """`-e` or `-d` with AES-KWP."""
        return self.run(
            "enc", direction, "-id-aes256-wrap-pad", "-K", aes_key.hex(), "-iv", RFC_5649_IV, data=data
        )


@pytest.mark.parametrize("name", list(contents()))
@pytest.mark.parametrize("suite", RSA_SUITES)
def test_openssl_opens_ours(suite: Suite, name: str, tmp_path: Path) -> None:
    openssl = OpenSsl(tmp_path, suite)
    envelope = seal_private_key(contents()[name], rsa_key().public_key(), suite, ABOUT).encode()
    body = envelope[2 + int.from_bytes(envelope[:2], "big") :]
    aes_key = openssl.rsa("-decrypt", body[:256])
    assert openssl.kwp("-d", aes_key, body[-40:]) == hashlib.sha256(envelope[:-40]).digest()
    assert openssl.kwp("-d", aes_key, body[256:-40]) == contents()[name]
    key = openssl.run("pkey", "-inform", "DER", "-pubout", "-outform", "DER", data=contents()[name])
    assert hashlib.sha256(key).digest() == Envelope.decode(envelope).header.spki


@pytest.mark.parametrize("suite", RSA_SUITES)
def test_openssl_refuses_what_we_refuse(suite: Suite, tmp_path: Path) -> None:
    openssl = OpenSsl(tmp_path, suite)
    body = seal_secret_key(bytes(32), rsa_key().public_key(), suite, {}).body
    aes_key = openssl.rsa("-decrypt", body[:256])
    with pytest.raises(subprocess.CalledProcessError):
        openssl.kwp("-d", aes_key, body[256:-41] + bytes([body[-41] ^ 1]))
    with pytest.raises(subprocess.CalledProcessError):
        OpenSsl(tmp_path, next(each for each in RSA_SUITES if each is not suite)).rsa("-decrypt", body[:256])


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP521R1()), rsa.generate_private_key(65537, 2048)], ids=["P-521", "RSA"])  # fmt: skip
@pytest.mark.parametrize("suite", RSA_SUITES)
def test_we_open_openssls(
    suite: Suite, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, tmp_path: Path
) -> None:
    openssl = OpenSsl(tmp_path, suite)
    spki, recipient = (
        each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for each in (key, rsa_key())
    )
    members = {
        "about": {"record": 1},
        "format": "hsmd-envelope/1",
        "kind": "private-key",
        "recipient": hashlib.sha256(recipient).hexdigest(),
        "spki": hashlib.sha256(spki).hexdigest(),
        "suite": suite.value,
    }
    header, aes_key = json.dumps(members, separators=(",", ":")).encode(), os.urandom(32)
    front = len(header).to_bytes(2, "big") + header + openssl.rsa("-encrypt", aes_key)
    front += openssl.kwp("-e", aes_key, pkcs8(key))
    tag = openssl.kwp("-e", aes_key, openssl.run("dgst", "-sha256", "-binary", data=front))
    assert open_envelope(Envelope.decode(front + tag), rsa_key()) == pkcs8(key)
    with pytest.raises(EnvelopeInvalid):
        open_envelope(Envelope.decode(front + openssl.kwp("-e", aes_key, bytes(32))), rsa_key())


# --- bare wrapped keys, `oaep || kwp`, as key management services import them ---


@pytest.mark.parametrize("name", list(contents()))
@pytest.mark.parametrize("suite", RSA_SUITES)
def test_openssl_opens_our_bare_ones(suite: Suite, name: str, tmp_path: Path) -> None:
    openssl = OpenSsl(tmp_path, suite)
    bare = bare_of(seal_private_key(contents()[name], rsa_key().public_key(), suite, ABOUT))
    assert openssl.kwp("-d", openssl.rsa("-decrypt", bare[:256]), bare[256:]) == contents()[name]


@pytest.mark.parametrize("name", list(contents()))
@pytest.mark.parametrize("suite", RSA_SUITES)
def test_we_import_openssls_bare_ones(suite: Suite, name: str, tmp_path: Path) -> None:
    """And seal what was in them to a management key of the owner."""
    openssl, aes_key = OpenSsl(tmp_path, suite), os.urandom(32)
    bare = openssl.rsa("-encrypt", aes_key) + openssl.kwp("-e", aes_key, contents()[name])
    imported = open_bare(bare, rsa_key(), suite, Kind.PRIVATE_KEY)
    assert imported == contents()[name]
    to = ec.generate_private_key(ec.SECP256R1())
    envelope = seal_private_key(imported, to.public_key(), Suite.HPKE_P256, ABOUT)
    assert open_envelope(envelope, to) == contents()[name]
    with pytest.raises(EnvelopeInvalid):
        open_bare(bare[:-1] + bytes([bare[-1] ^ 1]), rsa_key(), suite, Kind.PRIVATE_KEY)
