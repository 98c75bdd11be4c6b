"""Stores on both databases: SQLite in a temporary directory, PostgreSQL in a throw-away cluster of Debian's package."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest

from hsmd.algorithms import KeyType
from hsmd.daemon.store import CredentialRecord, KeyRecord, Store
from hsmd.purposes import expand, with_daemon_purposes

START_DEADLINE_S = 30
NOW = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running PostgreSQL that listens on a Unix socket only."""

    sockets: Path

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.sockets}"

    def run(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(
            host=str(self.sockets), user="postgres", dbname=database, autocommit=True
        ) as connection:
            connection.execute(statement.encode())


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One cluster for the whole run; without durability, and gone with this process."""
    directory = Path(tempfile.mkdtemp(prefix="hsmd-pg-"))  # a short path: socket names have at most 107 bytes
    as_user = _unprivileged(directory)
    data = directory / "data"
    # A collation that does not follow the bytes, as most installations have: "a" before "B".
    collation = ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
    initdb = [_binary("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N", *collation]
    subprocess.run([*as_user, *initdb], check=True, capture_output=True, cwd=directory, timeout=60)
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": directory,
        "fsync": "off",
        "max_connections": 60,
    }
    arguments = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [*as_user, _binary("postgres"), "-D", data, *arguments], stdout=log, stderr=log, cwd=directory
        )
    try:
        _wait_for(server, directory)
        yield Cluster(directory)
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(START_DEADLINE_S)
        shutil.rmtree(directory, ignore_errors=True)


def _unprivileged(directory: Path) -> list[str]:
    """How to run PostgreSQL, which refuses root; `setpriv` also makes it end when this process dies."""
    command = ["setpriv", "--pdeathsig", "QUIT"]
    if os.geteuid() != 0:
        return command
    shutil.chown(directory, "postgres", "postgres")
    return [*command, "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]


def _binary(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = str(found[-1]) if found else shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is missing: apt-get install postgresql")
    return path


def _wait_for(server: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            psycopg.connect(
                host=str(directory), user="postgres", dbname="postgres", connect_timeout=2
            ).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start:\n{(directory / 'log').read_text()}")
            time.sleep(0.05)


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
def make_store(empty_url: str) -> Iterator[Callable[[], Store]]:
    """Makes stores on one migrated database, as several daemons would."""
    made: list[Store] = []

    def make() -> Store:
        made.append(Store(empty_url))
        return made[-1]

    make().migrate()
    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: Callable[[], Store]) -> Store:
    return make_store()


@pytest.fixture
def make_key() -> Callable[..., KeyRecord]:
    return key_record


def key_record(
    name: str,
    *,
    purposes: tuple[str, ...] = ("tls-server",),
    seed: str = "",
    key_type: KeyType = KeyType.P256,
) -> KeyRecord:
    """A key record; the same seed (its name if left out) stands for the same key pair."""
    public_key = f"public key of {seed or name}".encode()
    return KeyRecord(
        name=name,
        key_type=key_type,
        digest=sha256(public_key).digest(),
        public_key=public_key,
        purposes=with_daemon_purposes(expand(purposes)),
        token="main",
        created_at=NOW,
        warnings=("extractable",),
    )


@pytest.fixture
def make_credential() -> Callable[[str], CredentialRecord]:
    def make(seed: str) -> CredentialRecord:
        return CredentialRecord("SHA256:" + seed.ljust(43, "x"), f"ssh-ed25519 {seed}")

    return make


@pytest.fixture
def now() -> datetime:
    return NOW
