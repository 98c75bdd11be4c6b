"""A store is lost and restored from a backup, and the logs of its daemons are kept: they tell how often keys were taken out since."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hsmd.errors import Conflict, Refused
from hsmd.protocol import messages
from hsmd.system.log_files import log_lines
from tests.support.daemon import Daemon
from tests.support.fleet import twin_of
from tests.support.polling import wait_until
from tests.support.postgresql import Cluster
from tests.support.processes import environment, hsmd
from tests.support.vault import DENY, OWNER, Deposit, Owner, add_client, confirm

MOST = 5
RECORD = "www"
pytestmark = pytest.mark.timeout(180)


class Site:
    """A daemon, or two that share a store, one record that may be taken out five times, and a backup that knows of one use."""

    def __init__(self, directory: Path, cluster: Cluster | None) -> None:
        self.directory = directory
        self.cluster = cluster
        url = ""
        if cluster is not None:
            cluster.run("CREATE DATABASE vault_recount")
            url = cluster.url("vault_recount")
        self.daemons = [Daemon(directory / "daemon", store_url=url)]
        self.owner = Owner()
        self.deposit: Deposit

    @property
    def first(self) -> Daemon:
        return self.daemons[0]

    def add_twin(self) -> Daemon:
        self.daemons.append(twin_of(self.first, self.directory / "twin"))
        return self.daemons[-1]

    async def begin(self) -> None:
        """Deposit, take the key out once, and back up the store after a checkpoint of each log."""
        await self.on_each(Daemon.start)
        await asyncio.to_thread(add_client, self.first, OWNER, "owner")
        for other in self.daemons[1:]:
            shutil.copy(self.first.directory / OWNER, other.directory / OWNER)
        async with self.first.connection(OWNER) as connection:
            await confirm(self.first, OWNER, (await self.owner.register(connection)).fingerprint)
            self.deposit = await self.owner.put(connection, RECORD, max_uses=MOST, mode=DENY)
        await self.take(self.first)
        await self.on_each(sealed_with_checkpoint)
        await asyncio.to_thread(self.command, "backup", self.backup)

    async def on_each(self, action: Any) -> None:
        for daemon in self.daemons:
            await asyncio.to_thread(action, daemon)

    async def take(self, daemon: Daemon, times: int = 1) -> None:
        async with daemon.connection(OWNER) as connection:
            for _ in range(times):
                await self.owner.get(connection, RECORD)

    @property
    def backup(self) -> Path:
        return self.directory / "backup.tar"

    def lose_store(self) -> None:
        if self.cluster is not None:
            self.cluster.run("DROP DATABASE vault_recount WITH (FORCE)")
            self.cluster.run("CREATE DATABASE vault_recount")
        for path in self.first.directory.glob("store.sqlite*"):
            path.unlink()

    def command(self, *arguments: str | Path) -> dict[str, Any]:
        command = hsmd(*arguments, "--config", self.first.config, "--json")
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    async def restore(self, *options: str | Path) -> dict[str, Any]:
        """Stop, lose the store, and restore it; return what the command printed."""
        await self.on_each(lambda daemon: daemon.process and daemon.stop())
        await asyncio.to_thread(self.lose_store)
        return await asyncio.to_thread(self.command, "restore", self.backup, *options)

    async def state_limits_again(self) -> messages.VaultVersion:
        """Confirm the management key again, and sign the limits as they were; return what the daemon shows then."""
        async with self.first.connection(OWNER) as connection:
            with pytest.raises(Refused):
                await self.owner.get(connection, RECORD)
            await confirm(self.first, OWNER, self.owner.statement.fingerprint)
            with pytest.raises(Conflict, match="was restored from a backup"):
                await self.owner.get(connection, RECORD)
            await self.owner.limit(connection, self.deposit)
            shown: messages.VaultVersions = await connection.control(messages.VaultShow(RECORD), timeout_s=10)
            return shown.versions[0]

    async def take_until_refused(self) -> int:
        """How often the key is given out now."""
        taken = 0
        async with self.first.connection(OWNER) as connection:
            with pytest.raises(Conflict, match=f"taken out {MOST} times, and {MOST} are allowed"):
                while taken <= MOST:
                    await self.owner.get(connection, RECORD)
                    taken += 1
        return taken

    def numbers(self, member: str) -> list[int]:
        """The numbers of all requests, or of all releases, in the logs of all daemons."""
        found = []
        for daemon in self.daemons:
            for line in log_lines(daemon.audit_path.parent):
                record = json.loads(line)
                if record["event"] == "vault.acquired" and member in record["fields"]:
                    found.append(record["fields"][member])
        return sorted(found)

    def end(self) -> None:
        for daemon in reversed(self.daemons):
            daemon.end()
        if self.cluster is not None:
            self.cluster.run("DROP DATABASE vault_recount WITH (FORCE)")


def sealed_with_checkpoint(daemon: Daemon) -> None:
    """Seal the log after a checkpoint, which the store remembers. One that shares a key just made may have to look twice."""

    def done() -> int:
        daemon.ask(messages.AuditSeal())
        return daemon.status().audit_covered

    wait_until(done, what="a checkpoint")


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    built = Site(tmp_path, request.getfixturevalue("cluster") if request.param == "postgresql" else None)
    yield built
    built.end()


@pytest.fixture
def shared(tmp_path: Path, cluster: Cluster) -> Iterator[Site]:
    built = Site(tmp_path, cluster)
    built.add_twin()
    yield built
    built.end()


async def test_a_restore_gives_no_use_back_if_the_log_was_kept(site: Site) -> None:
    await site.begin()
    await site.take(site.first, 3)
    restored = await site.restore()
    (log,) = restored["logs"]
    assert log["path"] == str(site.first.audit_path.parent)
    assert (log["origin"], log["acquisitions"], log["complete"]) == ("hsmd/test", 4, True)
    assert (restored["versions_raised"], restored["uncounted"]) == (1, [])

    await asyncio.to_thread(site.first.start)
    shown = await site.state_limits_again()
    assert (shown.released, shown.uses_left) == (4, 1)
    assert shown.requests >= 5, "the one that was refused while it was held"
    assert await site.take_until_refused() == 1
    await asyncio.to_thread(site.first.stop)
    assert site.numbers("released") == [1, 2, 3, 4, 5], "no number was given twice"
    requests = site.numbers("request")
    assert requests == list(range(1, len(requests) + 1))


async def test_a_restore_counts_what_another_daemon_gave_out_if_its_log_is_named(shared: Site) -> None:
    other = shared.daemons[1]
    await shared.begin()
    await shared.take(shared.first)
    await shared.take(other, 2)
    without = await shared.restore()
    assert [log["origin"] for log in without["logs"]] == ["hsmd/test"]
    assert without["uncounted"] == ["hsmd/twin"]
    assert "counts of uses in the vault may be too low" in json.dumps(without["next"])
    assert "hsmd/twin" in json.dumps(without["next"])

    restored = await shared.restore("--log", other.audit_path.parent)
    assert [log["origin"] for log in restored["logs"]] == ["hsmd/test", "hsmd/twin"]
    assert [log["acquisitions"] for log in restored["logs"]] == [2, 2]
    assert (restored["versions_raised"], restored["uncounted"]) == (1, [])

    await asyncio.to_thread(shared.first.start)
    shown = await shared.state_limits_again()
    assert (shown.released, shown.uses_left) == (4, 1)
    assert await shared.take_until_refused() == 1
    await asyncio.to_thread(shared.first.stop)
    assert shared.numbers("released") == [1, 2, 3, 4, 5]
