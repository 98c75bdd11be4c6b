"""Fixtures of the attack tests: a daemon with metrics, and a token whose workers are driven over their raw sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from tests.support.daemon import Daemon, running_daemon
from tests.support.tokens import RawWorker, generate


@pytest.fixture
def open_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts a daemon for one test, with the metrics endpoint enabled."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            running_daemon(tmp_path / "daemon", metrics="127.0.0.1:0", **options)
        )


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftHsmToken:
    """A token shared by all attack tests."""
    return make_token(tmp_path_factory.mktemp("attacked") / "token", "attacked")


@pytest.fixture
def fresh_token(tmp_path: Path) -> SoftHsmToken:
    """A token for one test."""
    return make_token(tmp_path / "token", "fresh")


@pytest.fixture(scope="session")
def control(token: SoftHsmToken) -> Iterator[RawWorker]:
    """A control worker on `token`."""
    worker = RawWorker(token, {"control": True}).ready()
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def keys(control: RawWorker) -> dict[str, KeyDescription]:
    """Keys by their use."""
    return {
        "ec": generate(control, "ec", "p-256", ["tls-server", "tls-client"]),
        "rsa": generate(control, "rsa", "rsa-2048", ["tls-server", "tls-client"]),
        "ed25519": generate(control, "ed25519", "ed25519", ["tls-server"]),
        "digest": generate(control, "digest", "p-256", ["sign-digest"]),
        "rsa-digest": generate(control, "rsa-digest", "rsa-2048", ["sign-digest"]),
        "message": generate(control, "message", "p-256", ["sign-message"]),
        "premaster": generate(control, "premaster", "rsa-2048", ["tls12-rsa-premaster"]),
    }


@pytest.fixture(scope="session")
def worker(token: SoftHsmToken, keys: dict[str, KeyDescription]) -> Iterator[RawWorker]:
    """A signing worker that has loaded `keys`."""
    raw = RawWorker(token).ready()
    yield raw
    raw.close()
