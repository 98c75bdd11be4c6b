"""Fixtures of the token's tests: one token for the whole run with a key of each kind, workers on it, and fresh tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from tests.support.tokens import RawWorker, generate

Start = Callable[..., RawWorker]


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftHsmToken:
    """A shared token to which tests add keys; no test relies on their number."""
    return make_token(tmp_path_factory.mktemp("softhsm") / "token", "shared")


@pytest.fixture
def fresh_token(tmp_path: Path) -> SoftHsmToken:
    """A token for one test."""
    return make_token(tmp_path / "token", "fresh")


@pytest.fixture(scope="session")
def control(token: SoftHsmToken) -> Iterator[RawWorker]:
    """A control worker on the shared token."""
    worker = RawWorker(token, {"control": True}).ready()
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def keys(control: RawWorker) -> dict[str, KeyDescription]:
    """One key of each kind for TLS servers, one for messages, one for digests, one that decrypts."""
    kinds = ("rsa-2048", "rsa-3072", "rsa-4096", "p-256", "p-384", "p-521", "ed25519")
    made = {kind: generate(control, kind, kind, ["tls-server", "tls-client"]) for kind in kinds}
    made["message"] = generate(control, "message", "p-256", ["sign-message"])
    made["digest"] = generate(control, "digest", "p-256", ["sign-digest"])
    made["rsa-digest"] = generate(control, "rsa-digest", "rsa-2048", ["sign-digest"])
    made["premaster"] = generate(control, "premaster", "rsa-2048", ["tls12-rsa-premaster"])
    return made


@pytest.fixture(scope="session")
def worker(token: SoftHsmToken, keys: dict[str, KeyDescription]) -> Iterator[RawWorker]:
    """A shared signing worker that has loaded `keys`; tests must not end it."""
    raw = RawWorker(token).ready()
    yield raw
    raw.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts workers that are ended after the test."""
    started: list[RawWorker] = []

    def start_worker(token: SoftHsmToken, **changes: Any) -> RawWorker:
        started.append(RawWorker(token, changes))
        return started[-1]

    yield start_worker
    for raw in started:
        raw.close()
