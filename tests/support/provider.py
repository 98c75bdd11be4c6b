"""Keys with their files, and programs that run with the provider configured, for the provider's tests."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from hsmd.provider import openssl_configuration
from hsmd.provider.site_configuration import read
from tests.support.provider_reference import reference_pem

TIMEOUT_MS = 2000
"""Long enough for a loaded machine; tests of the deadline itself set their own."""
SITE = "/etc/ssl/openssl.cnf"
"""The configuration that the provider's includes, unless a test wants none."""


def with_section(text: str, include: str | None, name: str, section: str) -> str:
    """The configuration with a section that the initial one names; what is appended to the text belongs to it.

    Which one is the initial section depends on the site's configuration: Debian 12 and 13 differ. OpenSSL adds to a section
    that appears again (config(5)).
    """
    initial = (read(include).init if include else "") or "hsmd_init"
    return f"{text}[{initial}]\n{name} = {section}\n[{section}]\n"


@dataclass(frozen=True, slots=True)
class Identity:
    """A key, its self-signed certificate for localhost, and its files."""

    name: str
    key: PrivateKeyTypes
    certificate: Path
    reference: Path
    private: Path
    """The private key as an ordinary PEM file, for comparison."""


def make_identity(directory: Path, name: str, key: PrivateKeyTypes) -> Identity:
    paths = [directory / f"{name}.{suffix}" for suffix in ("crt", "ref", "key")]
    paths[0].write_bytes(_self_signed(name, key).public_bytes(Encoding.PEM))
    paths[1].write_text(reference_pem(key.public_key(), f"key-{name}"))
    paths[2].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Identity(name, key, *paths)


def _self_signed(name: str, key: Any) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


@dataclass(frozen=True, slots=True)
class Environment:
    """Runs programs with the provider configured."""

    directory: Path
    socket: Path
    module: Path

    def configuration(
        self,
        timeout_ms: int = TIMEOUT_MS,
        tls: Sequence[str] = (),
        module: Path | None = None,
        include: str | None = SITE,
    ) -> Path:
        """Write an OpenSSL configuration; `tls` are settings for every SSL_CTX, as in SSL_CONF_cmd(3)."""
        text = openssl_configuration(str(self.socket), timeout_ms, module or self.module, include)
        if tls:
            text = with_section(text, include, "ssl_conf", "test_ssl")
            text += "system_default = test_tls\n[test_tls]\n" + "".join(f"{line}\n" for line in tls)
        path = self.directory / f"openssl-{len(list(self.directory.glob('openssl-*')))}.cnf"
        path.write_text(text)
        return path

    def run(
        self, command: Sequence[str | Path], configuration: Path | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, with the provider configured."""
        environment = {**os.environ, "OPENSSL_CONF": str(configuration or self.configuration())}
        environment |= options.pop("environment", {})
        return subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            **options,
        )

    def handshakes(
        self, cases: Sequence[dict[str, Any]], configuration: Path | None = None
    ) -> list[dict[str, Any]]:
        """Do TLS handshakes inside one separate Python process; return their outcomes (see provider_handshakes.py)."""
        done = self.run(
            [sys.executable, Path(__file__).with_name("provider_handshakes.py")],
            configuration,
            input=json.dumps(cases),
        )
        assert done.returncode == 0, done.stderr
        outcomes: list[dict[str, Any]] = json.loads(done.stdout)
        return outcomes
