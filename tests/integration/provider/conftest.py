"""Fixtures of the provider's tests: the module built once, keys, certificates, reference files, a running agent."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from hsmd.provider import openssl_configuration

from .provider_agent import Agent
from .provider_build import build_core_driver, build_evp_driver, build_module
from .provider_reference import reference_pem

HERE = Path(__file__).resolve().parent
TIMEOUT_MS = 2000
"""Ample for a loaded test machine; tests of the deadline itself use their own."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A key, its self-signed certificate for localhost, and its files."""

    name: str
    key: PrivateKeyTypes
    certificate: Path
    reference: Path
    private: Path
    """The private key as an ordinary PEM file, for controls."""


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The provider, built with gcc as a release."""
    return build_module(tmp_path_factory.mktemp("module"))


@pytest.fixture(scope="session")
def sanitized_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The provider with AddressSanitizer and UndefinedBehaviorSanitizer."""
    return build_module(tmp_path_factory.mktemp("sanitized"), sanitized=True)


@pytest.fixture(scope="session")
def evp_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that uses keys through libcrypto."""
    return build_evp_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="session")
def sanitized_evp_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with sanitizers, for the sanitized module."""
    return build_evp_driver(tmp_path_factory.mktemp("driver-sanitized"), sanitized=True)


@pytest.fixture(scope="session")
def core_driver(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[str]], list[str]]:
    """Runs commands in the driver of the pure C files; one line of answer for each."""
    program = build_core_driver(tmp_path_factory.mktemp("core"))

    def run(commands: Sequence[str]) -> list[str]:
        text = "".join(f"{command}\n" for command in commands)
        done = subprocess.run([str(program)], input=text, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.fixture(scope="session")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    """One identity per key type, and a second P-256 one."""
    directory = tmp_path_factory.mktemp("identities")
    keys: dict[str, PrivateKeyTypes] = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "p256": ec.generate_private_key(ec.SECP256R1()),
        "p384": ec.generate_private_key(ec.SECP384R1()),
        "p521": ec.generate_private_key(ec.SECP521R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
        "other": ec.generate_private_key(ec.SECP256R1()),
    }
    return {name: _identity(directory, name, key) for name, key in keys.items()}


def _identity(directory: Path, name: str, key: PrivateKeyTypes) -> Identity:
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


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    """Where the agent of this test listens."""
    return tmp_path / "agent.sock"


@pytest.fixture
def agent(socket_path: Path, identities: dict[str, Identity]) -> Iterator[Agent]:
    """A running agent with all the keys; whatever it found wrong with requests fails the test."""
    with Agent(socket_path, [identity.key for identity in identities.values()]) as running:
        yield running
    assert running.complaints == []


@dataclass(frozen=True, slots=True)
class Environment:
    """How to run programs with the provider."""

    directory: Path
    socket: Path
    module: Path

    def configuration(
        self, timeout_ms: int = TIMEOUT_MS, tls: Sequence[str] = (), module: Path | None = None
    ) -> Path:
        """Write an OpenSSL configuration; `tls` are settings for every SSL_CTX, as in SSL_CONF_cmd(3)."""
        text = openssl_configuration(str(self.socket), timeout_ms, module or self.module)
        if tls:
            text = text.replace("[hsmd_init]\n", "[hsmd_init]\nssl_conf = test_ssl\n")
            text += "[test_ssl]\nsystem_default = test_tls\n[test_tls]\n" + "".join(
                f"{line}\n" for line in tls
            )
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
        """In-process TLS handshakes in a Python of their own; the outcome of each (see handshakes.py)."""
        done = self.run([sys.executable, HERE / "handshakes.py"], configuration, input=json.dumps(cases))
        assert done.returncode == 0, done.stderr
        outcomes: list[dict[str, Any]] = json.loads(done.stdout)
        return outcomes


@pytest.fixture
def environment(tmp_path: Path, socket_path: Path, module: Path) -> Environment:
    """Programs of this test run with the release build and this test's socket."""
    return Environment(tmp_path, socket_path, module)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll until the condition holds; AssertionError after that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
