"""Fixtures of the provider's tests: the module built once, keys, certificates, reference files, a running agent."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from tests.support.fake_agent import Agent
from tests.support.provider import Environment, Identity, make_identity
from tests.support.provider_build import build_core_driver, build_evp_driver, build_module


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
    """Runs commands in the driver of the pure C files, which answers each with one line."""
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
    return {name: make_identity(directory, name, key) for name, key in keys.items()}


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    """The socket of the test's agent."""
    return tmp_path / "agent.sock"


@pytest.fixture
def agent(socket_path: Path, identities: dict[str, Identity]) -> Iterator[Agent]:
    """A running agent with all keys; any request it found faulty fails the test."""
    with Agent(socket_path, [identity.key for identity in identities.values()]) as running:
        yield running
    assert running.faults_found == []


@pytest.fixture
def environment(tmp_path: Path, socket_path: Path, module: Path) -> Environment:
    """The environment of the test's programs, with the release build and the test's socket."""
    return Environment(tmp_path, socket_path, module)
