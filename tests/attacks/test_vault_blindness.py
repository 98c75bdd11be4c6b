"""What a server with the vault has - database, backup, token, logs, memory - contains no deposited key, and opens none.

Both searches are shown to find what they look for: the keys in the process of their owner, and the envelopes with the management
key. `scripts/soak vault-blindness` tries each candidate as the content key and as the shared secret of each envelope, too, and
does all of it with PostgreSQL besides.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import text

from hsmd.client import Client
from hsmd.daemon.backup.archive import Archive
from hsmd.daemon.store import Store
from hsmd.envelopes.vault.management_keys import ManagementKeyStatement, WrappingSuite
from hsmd.holder import management_files
from hsmd.holder.management_keys import Place, SoftwareManagementKey, generate_pair, state
from hsmd.holder.proving import prove_wrapping
from hsmd.protocol import messages
from tests.support.daemon import OPERATOR, Daemon, running_daemon
from tests.support.holder import CHEAP
from tests.support.memory import Memory, Needles, find_in_files
from tests.support.polling import wait_until
from tests.support.postgresql import Cluster
from tests.support.processes import environment, hsmd
from tests.support.vault import add_client, pkcs8_of
from tests.support.vault_secrets import needles_of

THOROUGH = os.environ.get("HSMD_VAULT_OPENER_THOROUGH", "0") != "0"
PASSPHRASE = "a passphrase of the owner's"
DATABASES = ("sqlite", "postgresql") if THOROUGH else ("sqlite",)
pytestmark = pytest.mark.timeout(3_600 if THOROUGH else 900)


@dataclass
class Owners:
    """One owner for each kind of management key, with the same transaction keys; their files are in `directory`."""

    directory: Path
    management: dict[str, SoftwareManagementKey] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory.mkdir()
        self.keys = {
            "rsa": rsa.generate_private_key(65537, 2048),
            "p256": ec.generate_private_key(ec.SECP256R1()),
            "p384": ec.generate_private_key(ec.SECP384R1()),
            "ed25519": ed25519.Ed25519PrivateKey.generate(),
            "x25519": x25519.X25519PrivateKey.generate(),
            "secret": os.urandom(32),
        }
        if not THOROUGH:
            self.keys = {record: self.keys[record] for record in ("rsa", "p256")}
        for record in self.keys:
            self.file(record).write_bytes(self.content(record, pem=True))
        for suite in WrappingSuite:
            owner = f"owner-{suite.value}"
            key = state(generate_pair(suite), Place(owner), datetime.now(UTC))
            self.management[owner] = key
            sealed = management_files.encrypted(key, PASSPHRASE.encode(), CHEAP)
            management_files.write_new(self.directory / f"{owner}.key", sealed)

    def file(self, record: str) -> Path:
        return self.directory / f"{record}.{'secret' if record == 'secret' else 'pem'}"

    def content(self, record: str, *, pem: bool = False) -> bytes:
        """What is sealed, or what the file has."""
        key = self.keys[record]
        if isinstance(key, bytes):
            return key
        encoded: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return encoded if pem else pkcs8_of(key)

    @property
    def needles(self) -> dict[str, Needles]:
        """By key: transaction keys, and both halves of the management keys."""
        found = {record: needles_of(record, key) for record, key in self.keys.items()}
        for owner, key in self.management.items():
            found[f"{owner} wrapping"] = needles_of(f"{owner} wrapping", key.pair.wrapping)
            found[f"{owner} signing"] = needles_of(f"{owner} signing", key.pair.signing)
        return found

    def enrol(self, daemon: Daemon) -> None:
        """Register a management key for each owner, and have an operator confirm it."""
        for owner, key in self.management.items():
            add_client(daemon, owner, "owner")
            with Client.connect(daemon.endpoint(owner)) as client:
                request = messages.VaultRegister(key.signed.text, key.signed.signature)
                request.wrapping_proof = prove_wrapping(client, key, request)
                client.control(request)
            confirm_now(daemon, owner, key.statement.fingerprint)

    @contextmanager
    def running(self, daemon: Daemon, seen: Path) -> Iterator[OwnersProcess]:
        """The process that deposits all keys of all owners, and takes them out; it remembers statements in `seen`."""
        command = [sys.executable, "-m", "tests.support.vault_owner"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        ) as process:
            try:
                yield OwnersProcess(process, self._settings(daemon, seen))
            finally:
                process.kill()

    def _settings(self, daemon: Daemon, seen: Path) -> dict[str, Any]:
        host, port = daemon.address
        each = [
            {
                "name": owner,
                "identity_file": str(daemon.directory / owner),
                "host_keys": [daemon.notice["host_key"]],
                "management_key": str(self.directory / f"{owner}.key"),
                "passphrase": PASSPHRASE,
                "seen": str(seen / owner),
            }
            for owner in self.management
        ]
        keys = {record: str(self.file(record)) for record in self.keys}
        return {"endpoint": {"host": host, "port": port}, "owners": each, "keys": keys}


class OwnersProcess:
    """The running process, which has deposited everything, and counts how often it has taken everything out."""

    def __init__(self, process: subprocess.Popen[str], settings: dict[str, Any]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid, self.rounds = process.pid, 0
        self._output = process.stdout
        process.stdin.write(json.dumps(settings) + "\n")
        process.stdin.flush()
        assert self._output.readline() == "deposited\n"
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        for line in self._output:
            assert line == "taken\n"
            self.rounds += 1

    def take(self, rounds: int) -> None:
        """Wait until everything was taken out again."""
        wanted = self.rounds + rounds
        wait_until(lambda: self.rounds >= wanted, "keys are taken out", 60)


def confirm_now(daemon: Daemon, owner: str, fingerprint: str) -> None:
    daemon.ask(messages.VaultConfirm(owner, fingerprint), OPERATOR)


# --- what the server has ---


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Owners:
    return Owners(tmp_path_factory.mktemp("owners") / "files")


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    return Memory(tmp_path_factory.mktemp("memory"))


def daemon_pids(daemon: Daemon) -> list[int]:
    assert daemon.process is not None
    return [daemon.process.pid, *daemon.pids()]


def copy_of_the_server(daemon: Daemon, cluster: Cluster | None, database: str, target: Path) -> None:
    """Files, database, backup and memory of a daemon; not the files of its clients, which the tests keep beside them."""
    files = target / "files"
    files.mkdir(parents=True)
    for path in daemon.directory.iterdir():
        if path.is_dir():
            shutil.copytree(path, files / path.name)
        elif path.name.startswith(("store.", "hsmd.toml", "host_key", "log")):
            shutil.copy(path, files / path.name)
    if cluster is not None:
        (target / "dump").mkdir()
        (target / "dump" / "all.sql").write_bytes(cluster.dump(database))
    archive = target / "backup.tar"
    command = hsmd("backup", archive, "--config", daemon.config, "--host-key", "--audit")
    subprocess.run(command, check=True, capture_output=True, env=environment())
    unpacked = Archive(archive)
    for name in unpacked.names():
        member = target / "backup" / name
        member.parent.mkdir(parents=True, exist_ok=True)
        member.write_bytes(unpacked.read(name))
    for pid in daemon_pids(daemon):
        image_of(pid, target / "memory")


def image_of(pid: int, directory: Path) -> None:
    """Copy what a process can write in: heap, stacks, anonymous mappings, data of libraries."""
    directory.mkdir(exist_ok=True)
    with (
        open(f"/proc/{pid}/maps") as maps,
        open(f"/proc/{pid}/mem", "rb") as memory,
        (directory / str(pid)).open("wb") as image,
    ):
        for line in maps:
            addresses, mode, *_ = line.split()
            if mode.startswith("rw"):
                begin, end = (int(each, 16) for each in addresses.split("-"))
                memory.seek(begin)
                image.write(memory.read(end - begin))


def lay_out(store_url: str, target: Path) -> int:
    """Write the envelopes, and the public wrapping keys, as the opener takes them; return how many envelopes there are."""
    store = Store(store_url)
    try:
        with store.write(versioned=False) as tx:
            rows = tx.connection.execute(text("SELECT envelope FROM vault_envelopes")).all()
            statements = tx.connection.execute(text("SELECT text FROM vault_management_keys")).all()
    finally:
        store.close()
    for name in ("envelopes", "recipients"):
        (target / name).mkdir()
    for number, (envelope,) in enumerate(rows):
        (target / "envelopes" / str(number)).write_bytes(envelope)
    for number, (statement,) in enumerate(statements):
        stated = ManagementKeyStatement.decode(bytes(statement))
        if stated.suite is not WrappingSuite.SYMMETRIC:
            (target / "recipients" / str(number)).write_bytes(stated.wrapping)
    return len(rows)


def opened_with(directory: Path) -> dict[str, Any]:
    """What the opener reports about a directory."""
    options = ["--thorough"] if THOROUGH else []
    command = [sys.executable, "-m", "tests.support.vault_opener", directory, *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def all_of(needles: Iterable[Needles]) -> Needles:
    return {name: layouts for each in needles for name, layouts in each.items()}


@pytest.mark.parametrize("database", DATABASES)
def test_what_the_server_has_contains_no_key_and_opens_none(
    database: str, owners: Owners, memory: Memory, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cluster: Cluster | None = None
    url = ""
    if database == "postgresql":
        cluster = request.getfixturevalue("cluster")
        cluster.run("CREATE DATABASE blind")
        url = cluster.url("blind")
    needles = owners.needles
    server = tmp_path / "server"
    with running_daemon(tmp_path / "daemon", store_url=url) as daemon:
        owners.enrol(daemon)
        with owners.running(daemon, tmp_path / "seen") as process:
            process.take(1)
            for _ in range(2):
                found = memory.find(daemon_pids(daemon), all_of(needles.values()))
                assert not any(found.values()), "in memory, while keys are put and taken"
                process.take(1)
            copy_of_the_server(daemon, cluster, "blind", server)
            found = memory.find([process.pid], all_of(needles.values()))
            missing = [name for name, each in needles.items() if each.keys().isdisjoint(found[process.pid])]
            assert not missing, "the search finds each key in the process of the owner"
            image_of(process.pid, tmp_path)
        found = memory.find(daemon_pids(daemon), all_of(needles.values()))
        assert not any(found.values()), "in memory, afterwards"
        envelopes = lay_out(daemon.store_url, server)
    for part in ("files", "backup", *(["dump"] if cluster is not None else [])):
        assert find_in_files(server / part, all_of(needles.values())) == {}
    if cluster is not None:
        assert find_in_files(cluster.sockets / "data", all_of(needles.values())) == {}

    if cluster is None or THOROUGH:
        check_that_nothing_opens(owners, server, envelopes, tmp_path / f"{process.pid}")


def check_that_nothing_opens(owners: Owners, server: Path, envelopes: int, owners_image: Path) -> None:
    """The opener opens no envelope with what the server has, and each with a copy of the management keys."""
    expected = sorted(sha256(owners.content(record)).hexdigest() for record in owners.keys)
    tried = opened_with(server)
    assert envelopes == tried["envelopes"] == len(owners.management) * len(owners.keys)
    assert tried["opened"] == {}
    print(f"\n{envelopes} envelopes, tried {tried['keys']} private keys and {tried['windows']} windows")

    shutil.rmtree(server / "memory")
    for owner, key in owners.management.items():
        (server / f"{owner}.private").write_bytes(management_files._wrapping_bytes(key.pair))
    with_keys = opened_with(server)
    assert len(with_keys["opened"]) == envelopes
    assert sorted(set(with_keys["opened"].values())) == expected

    for path in server.iterdir():
        if path.name not in ("envelopes", "recipients"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (server / "memory").mkdir()
    owners_image.rename(server / "memory" / "owner")
    assert len(opened_with(server)["opened"]) == envelopes, "so does the memory of the owners' process"
