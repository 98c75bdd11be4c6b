"""Replacement of a management key over many deposits, with `hsmd vault rekey`, which is killed at a third and at two thirds.

At each moment the owner takes every key out and opens it, with the keys that the owner has then: until the replacement has
finished both, afterwards the new one. Longer: `scripts/soak vault-rekey`.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from hsmd.cli.base import profile as profiles
from hsmd.cli.base.profile import Profile
from hsmd.client import Client
from hsmd.daemon.store import Store
from hsmd.daemon.store.tables import vault_envelopes
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Kind
from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.errors import EnvelopeInvalid, Refused
from hsmd.holder import acquisitions, brought_keys, deposits, management_files, registration
from hsmd.holder.deposits import PrivateKeyInMemory, SecretInMemory, Terms
from hsmd.holder.management_keys import ManagementKey, Place, generate_pair, state
from hsmd.holder.proving import Patient, Prover
from hsmd.holder.seen import Seen
from hsmd.protocol.messages import VaultConfirm, VaultKeys, VaultShow, VaultVersion
from tests.support.daemon import Daemon, running_daemon
from tests.support.holder import CHEAP
from tests.support.processes import Process, hsmd
from tests.support.vault import DENY, add_client

OWNER = "anna"
WORD = b"correct horse"
DEPOSITS = int(os.environ.get("HSMD_TEST_REKEY_DEPOSITS", "12"))
SPENT = "spent"
"""A record whose only use is gone."""
WITHIN_S = 60 + DEPOSITS


class AnOwner:
    """An owner with many deposits, the files of an old and a new management key, and a machine to run commands on."""

    def __init__(self, daemon: Daemon, home: Path) -> None:
        self.daemon = daemon
        self.home = home
        self.contents: dict[str, bytes] = {}
        self.symmetric: set[str] = set()
        self.taken: Counter[str] = Counter()
        add_client(daemon, OWNER, "owner")
        self.client = self.connect()
        now = datetime.now(UTC)
        self.old = state(generate_pair(WrappingSuite.X25519), Place(OWNER), now)
        self.new = state(
            generate_pair(WrappingSuite.P256), Place.behind(self.old.statement), now, replaces=self.old
        )
        self._write_files()
        registered = registration.register(self.client, self.old)
        daemon.ask(VaultConfirm(OWNER, registered.fingerprint))

    def connect(self) -> Client:
        return Client.connect(self.daemon.endpoint(OWNER))

    def _write_files(self) -> None:
        host, port = self.daemon.address
        directory = self.home / ".config" / "hsmd"
        directory.mkdir(parents=True)
        made = Profile(
            f"{host}:{port}", OWNER, self.daemon.directory / OWNER, (self.daemon.notice["host_key"],)
        )
        (directory / "operator.toml").write_text(profiles.render(made))
        for name, key in (("management-key", self.old), ("new-key", self.new)):
            management_files.write_new(directory / name, management_files.encrypted(key, WORD, CHEAP))
        self.old_file, self.new_file = directory / "management-key", directory / "new-key"

    def deposit(self, count: int) -> None:
        """Private and symmetric keys in turns, each with its limit of uses, and one that is used up."""
        prover, seen = Prover(Patient(self.client), self.old), Seen(self.home / "first")
        for number in range(count):
            key, content = self._key(number)
            self.contents[f"record-{number}"] = content
            if isinstance(key, SecretInMemory):
                self.symmetric.add(f"record-{number}")
            terms = Terms(max_uses=1_000_000 + number, mode=DENY)
            deposits.put(prover, seen, key, f"record-{number}", terms, datetime.now(UTC))
        spent = SecretInMemory(os.urandom(32))
        deposits.put(prover, seen, spent, SPENT, Terms(max_uses=1, mode=DENY), datetime.now(UTC))
        assert acquisitions.get(prover, seen, SPENT).open(self.old) == spent.secret

    def _key(self, number: int) -> tuple[PrivateKeyInMemory | SecretInMemory, bytes]:
        if number % 3 == 0:
            secret = os.urandom(32)
            return SecretInMemory(secret), secret
        brought = brought_keys.generate(("ed25519", "p-256")[number % 3 - 1])
        return PrivateKeyInMemory(brought), brought.pkcs8

    def take(self, client: Client, key: ManagementKey, seen: Seen, record: str) -> ManagementKey:
        """Take a key out with a proof of `key`, open it, and return the management key that opened it."""
        former = self.old if key is self.new else None
        got = acquisitions.get(Prover(Patient(client), key), seen, record, former=former)
        self.taken[record] += 1
        opener = acquisitions.opener(got.statement, key, former)
        assert got.open(opener) == self.contents[record], record
        assert (got.requests, got.released) == (self.taken[record],) * 2, f"{record}: only uses are counted"
        return opener

    def take_all(self) -> int:
        """Take every key out in the middle of a replacement; how many of them the new management key has opened."""
        seen = Seen(self.home / "sweeps")
        openers = [self.take(self.client, self.new, seen, record) for record in self.contents]
        return sum(opener is self.new for opener in openers)

    def wrapped(self) -> int:
        """How many versions are wrapped for the new management key."""
        newest = self.client.control(VaultKeys(limit=1)).keys[0]
        return int(newest.deposits) if newest.number == self.new.statement.number else 0

    def version(self, record: str) -> VaultVersion:
        found: VaultVersion = self.client.control(VaultShow(record)).versions[0]
        return found

    def command(self, *words: str | Path, words_from: tuple[str, ...] = ("--passphrase-fd",)) -> Process:
        """Start `hsmd vault ...`; it reads its passphrases from descriptors."""
        descriptors = []
        options: list[str] = []
        for option in words_from:
            reading, writing = os.pipe()
            os.write(writing, WORD + b"\n")
            os.close(writing)
            descriptors.append(reading)
            options += [option, str(reading)]
        log = self.home / f"log-{time.monotonic_ns()}"
        try:
            return Process(
                hsmd("vault", *words, *options, "--json"),
                log,
                variables={"HOME": str(self.home)},
                pass_fds=descriptors,
            )
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def rekey(self) -> Process:
        return self.command("rekey", self.new_file, words_from=("--passphrase-fd", "--new-passphrase-fd"))

    def get_by_command(self, record: str, *more: str | Path) -> tuple[int, str]:
        """Exit code and output of `hsmd vault get`; what it writes is compared."""
        out = self.home / f"out-{time.monotonic_ns()}"
        words_from = ("--passphrase-fd", "--old-passphrase-fd")[: 1 + ("--old-management-key" in more)]
        form = () if record in self.symmetric else ("--der",)
        process = self.command("get", record, "--output", out, *form, *more, words_from=words_from)
        code = process.wait(30)
        if code == 0:
            self.taken[record] += 1
            assert out.read_bytes() == self.contents[record]
        return code, process.log.read_text()


class Reader(threading.Thread):
    """Takes the keys out in turns, on another machine of the owner's, until it is told to stop."""

    def __init__(self, owner: AnOwner) -> None:
        super().__init__()
        self._owner = owner
        self._enough = threading.Event()
        self.count = 0
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            with self._owner.connect() as client:
                self._read(client, Seen(self._owner.home / "reader"))
        except BaseException as fault:
            self.fault = fault

    def _read(self, client: Client, seen: Seen) -> None:
        key = self._owner.old
        while not self._enough.is_set():
            for record in self._owner.contents:
                if self._enough.is_set():
                    return
                try:
                    self._owner.take(client, key, seen, record)
                except Refused:
                    assert key is self._owner.old, "the new key proves, once the replacement has begun"
                    key = self._owner.new
                    self._owner.take(client, key, seen, record)
                self.count += 1

    def __enter__(self) -> Reader:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.join()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[AnOwner]:
    with running_daemon(tmp_path / "daemon") as daemon:
        made = AnOwner(daemon, tmp_path / "home")
        with made.client:
            made.deposit(DEPOSITS)
            yield made


def killed_at(owner: AnOwner, count: int) -> int:
    """Replace while another machine reads, until so many are wrapped anew, and kill the command; how many are."""
    with ExitStack() as undo:
        reader = undo.enter_context(Reader(owner))
        process = owner.rekey()
        undo.callback(process.stop)
        until = time.monotonic() + WITHIN_S
        while owner.wrapped() < count:
            process.check("hsmd vault rekey")
            assert time.monotonic() < until, process.log.read_text()
        process.signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it had not ended"
    if reader.fault is not None:
        raise reader.fault
    reached = owner.wrapped()
    assert count <= reached <= DEPOSITS
    print(f"killed with {reached} of {DEPOSITS + 1} wrapped anew; {reader.count} acquisitions beside it")
    return reached


@pytest.mark.timeout(180 + 2 * DEPOSITS)
def test_every_key_can_be_used_at_each_moment_of_a_replacement(owner: AnOwner) -> None:
    began = time.monotonic()
    for third in (1, 2):
        reached = killed_at(owner, DEPOSITS * third // 3)
        assert reached - owner.take_all() in range(-3, 2), (
            "some are wrapped anew while the kill is on its way; the spent one may be among them"
        )
        check_commands(owner)
    remaining = DEPOSITS + 1 - owner.wrapped()
    with Reader(owner) as reader:
        process = owner.rekey()
        assert process.wait(WITHIN_S) == 0, process.log.read_text()
    if reader.fault is not None:
        raise reader.fault
    done = json.loads(process.log.read_text())
    assert (done["finished"], done["failed"]) == (True, {}), "what was wrapped before is not wrapped twice"
    assert done["wrapped"] == remaining
    check_finished(owner)
    print(f"{DEPOSITS + 1} deposits in {time.monotonic() - began:.1f} s, {owner.taken.total()} acquisitions")


def check_commands(owner: AnOwner) -> None:
    """In the middle of a replacement: `hsmd vault get` with both keys opens what is wrapped anew, and what is not."""
    both = "--management-key", owner.new_file, "--old-management-key", owner.old_file
    new = owner.new.statement.digest.hex()
    for wrapped in (True, False):
        record = next(each for each in owner.contents if (owner.version(each).management == new) is wrapped)
        code, shown = owner.get_by_command(record, *both)
        assert code == 0, shown
    code, shown = owner.get_by_command(record)
    assert code == 1 and "--old-management-key" in shown, "the old one alone proves nothing any more"


def check_finished(owner: AnOwner) -> None:
    """Everything is under the new key, the old one is of no use, and nothing but uses was counted."""
    assert [key.state for key in owner.client.control(VaultKeys()).keys] == ["active", "retired"]
    for envelope in envelopes_of(owner.daemon):
        with pytest.raises(EnvelopeInvalid):
            owner.old.open(envelope)
        assert owner.new.open(envelope)
    seen = Seen(owner.home / "afterwards")
    for number, (record, content) in enumerate(owner.contents.items()):
        got = acquisitions.get(Prover(Patient(owner.client), owner.new), seen, record)
        owner.taken[record] += 1
        assert got.open(owner.new) == content
        with pytest.raises(Refused):
            acquisitions.get(Prover(Patient(owner.client), owner.old), seen, record)
        shown = owner.version(record)
        assert (shown.requests, shown.released) == (owner.taken[record],) * 2
        assert (shown.number, shown.max_uses, shown.mode) == (2, 1_000_000 + number, "deny")
    spent = owner.version(SPENT)
    assert (spent.requests, spent.released, spent.state, spent.reason) == (1, 1, "deactivated", "limit")


def envelopes_of(daemon: Daemon) -> list[Envelope]:
    """All envelopes in the store."""
    store = Store(daemon.store_url)
    try:
        found = store.query(lambda tx: tx.connection.scalars(select(vault_envelopes.c.envelope)).all())
    finally:
        store.close()
    assert len(found) == DEPOSITS + 1
    decoded = [Envelope.decode(each) for each in found]
    assert {each.header.kind for each in decoded} == set(Kind)
    return decoded
