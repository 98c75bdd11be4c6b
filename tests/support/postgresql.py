"""A temporary PostgreSQL cluster from Debian's package, on a Unix socket only."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

START_DEADLINE_S = 30


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

    def dump(self, database: str) -> bytes:
        """All that is in a database, as `pg_dump` writes it."""
        command = [_binary("pg_dump"), "-h", self.sockets, "-U", "postgres", database]
        return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout

    def load(self, database: str, dump: Path) -> str:
        """Create a database from a plain dump; return its URL."""
        self.run(f"CREATE DATABASE {database}")
        command = [_binary("psql"), "-h", self.sockets, "-U", "postgres", "-d", database]
        options = ["--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--file", dump]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return self.url(database)


@contextmanager
def running_cluster(
    prepare: Callable[[Path], Mapping[str, object]] = lambda data: {},
) -> Iterator[Cluster]:
    """A cluster without durability, which ends with the test process.

    `prepare` may put files into its data directory, and returns further settings.
    """
    directory = Path(tempfile.mkdtemp(prefix="hsmd-pg-"))  # a short path: socket names have at most 107 bytes
    as_user = _unprivileged(directory)
    data = directory / "data"
    # A collation other than byte order, as in most installations: "a" before "B".
    collation = ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
    initdb = [_binary("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N", *collation]
    subprocess.run([*as_user, *initdb], check=True, capture_output=True, cwd=directory, timeout=60)
    settings: dict[str, object] = {
        "listen_addresses": "",
        "unix_socket_directories": directory,
        "fsync": "off",
        "max_connections": 60,
    }
    settings |= prepare(data)
    _give_to_server(data)
    arguments = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [*as_user, _binary("postgres"), "-D", data, *arguments], stdout=log, stderr=log, cwd=directory
        )
    try:
        _wait_for(server, directory, str(settings.get("port", 5432)))
        yield Cluster(directory)
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(START_DEADLINE_S)
        shutil.rmtree(directory, ignore_errors=True)


def _give_to_server(data: Path) -> None:
    """The server reads a private key only if the file is its own."""
    if os.geteuid() == 0:
        for path in data.iterdir():
            shutil.chown(path, "postgres", "postgres")


def _unprivileged(directory: Path) -> list[str]:
    """Command prefix for PostgreSQL, which refuses to run as root; `setpriv` also ends it with the test process."""
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


def _wait_for(server: subprocess.Popen[bytes], directory: Path, port: str) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            psycopg.connect(
                host=str(directory), port=port, user="postgres", dbname="postgres", connect_timeout=2
            ).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start:\n{(directory / 'log').read_text()}")
            time.sleep(0.05)
