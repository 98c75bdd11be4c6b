"""Fixtures of all tests, and the Hypothesis profile: the same examples in every run; `scripts/soak properties` draws new ones.

The fault-injecting PKCS#11 module is compiled once per session.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from hsmd import cli
from tests.support.agent_site import AgentSite, talk_as
from tests.support.cli import Ran, Run
from tests.support.fake_control import FakeControl
from tests.support.fake_daemon import FakeDaemon
from tests.support.fault_module.control import FaultModule
from tests.support.postgresql import Cluster, running_cluster

settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=2_000, print_blob=True, deadline=None)
settings.load_profile("gate")


@pytest.fixture(scope="session")
def fault_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled fault-injecting module."""
    return FaultModule.build(tmp_path_factory.mktemp("fault-module"))


@pytest.fixture
def fault_module(tmp_path: Path, fault_library: Path) -> Iterator[FaultModule]:
    """A fault-injecting module for one test; it watches the audit log of the daemon in `tmp_path / "daemon"`."""
    module = FaultModule(
        tmp_path / "faults", fault_library, watch=tmp_path / "daemon" / "audit" / "audit.jsonl"
    )
    yield module
    module.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One PostgreSQL cluster for the whole run."""
    with running_cluster() as running:
        yield running


_numbers = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without a schema."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    cluster: Cluster = request.getfixturevalue("cluster")
    database = f"test_{next(_numbers)}"
    cluster.run(f"CREATE DATABASE {database}")
    return cluster.url(database)


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory that every user of the host can enter, unlike tmp_path."""
    root = Path(tempfile.mkdtemp(prefix="hsmd-"))
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


@pytest.fixture
async def agent_site(root: Path) -> AsyncIterator[AgentSite]:
    daemon = FakeDaemon(root)
    key = daemon.add_key("www")
    await daemon.start()
    site = AgentSite(root, daemon, key)
    yield site
    await site.stop()
    for listening in (daemon, *site.more_daemons):
        await listening.stop()


@pytest.fixture
def as_user() -> Callable[[int, Path, bytes], Awaitable[bytes]]:
    """Sends bytes to the agent's socket as another user; returns what it received until the agent closed or 0.3 s passed."""

    async def talk(uid: int, path: Path, data: bytes) -> bytes:
        return await asyncio.to_thread(talk_as, uid, path, data)

    return talk


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, which is also the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "SUDO_UID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs one `hsmd` command line in this process."""

    def run_line(*arguments: str, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        code = cli.run(arguments)
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return run_line


@pytest.fixture
def fake_control(home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeControl:
    """A fake daemon that every command connects to, and an operator profile in the home directory."""
    from hsmd.cli.base import connection

    configuration = home / ".config" / "hsmd"
    configuration.mkdir(parents=True)
    (configuration / "operator.toml").write_text(
        'daemon = "192.0.2.1:7440"\nuser = "alice"\nidentity = "id"\nhost_keys = ["ssh-ed25519 AAAA"]\n'
    )
    made = FakeControl()
    monkeypatch.setattr(connection, "connect", lambda profile, witness=None: made)
    return made
