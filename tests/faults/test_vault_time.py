"""The term of a key in the vault, while clocks jump and stores are restored: it ends once, and nothing revives it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hsmd.client import Connection
from hsmd.envelopes.vault.fields import format_time
from hsmd.envelopes.vault.life_cycle import Reason, State
from hsmd.errors import Conflict, Refused
from hsmd.protocol import messages
from hsmd.protocol.messages import Event
from hsmd.system.log_files import log_lines
from hsmd.transparency.verification import verify_log
from tests.support.daemon import OPERATOR, Daemon
from tests.support.moved_clock import MovedClock
from tests.support.postgresql import Cluster
from tests.support.processes import environment, hsmd
from tests.support.vault import DENY, OWNER, Deposit, Owner, add_client, check, confirm

HOUR = timedelta(hours=1)
MOST = 10
RECORD = "www"
TAKEN = 3
pytestmark = pytest.mark.timeout(240)


class Site:
    """A daemon whose clock is moved, and one record that may be taken out for two hours."""

    def __init__(self, directory: Path, store_url: str, cluster: Cluster | None) -> None:
        self.directory = directory
        self.cluster = cluster
        self.clock = MovedClock(directory / "clock")
        self.daemon = Daemon(directory / "daemon", store_url=store_url, environment=self.clock.environment)
        self.owner = Owner()
        self.deposit: Deposit

    async def begin(self) -> None:
        """A deposit, of which one use is in a backup of the store, one in a backup of store and log, and the last in none."""
        await asyncio.to_thread(self.daemon.start)
        add_client(self.daemon, OWNER, "owner")
        async with self.connection() as connection:
            await confirm(self.daemon, OWNER, (await self.owner.register(connection)).fingerprint)
            self.deposit = await self.owner.put(
                connection,
                RECORD,
                max_uses=MOST,
                mode=DENY,
                not_after=format_time(self.clock.now() + 2 * HOUR),
            )
            for number, options in enumerate(([], ["--audit"], None)):
                await self.owner.get(connection, RECORD)
                if options is not None:
                    await asyncio.to_thread(self._command, "backup", self.backup(number), *options)

    def connection(self) -> Connection:
        return self.daemon.connection(OWNER)

    def backup(self, number: int) -> Path:
        """0: the store; 1: store and log."""
        return self.directory / f"{number}.tar"

    async def restart(self, ahead: timedelta) -> None:
        """Stop the daemon, and start it when its clock is so far ahead."""
        await asyncio.to_thread(self.daemon.stop)
        self.clock.move(ahead)
        await asyncio.to_thread(self.daemon.start)

    async def restore(self, number: int, ahead: timedelta) -> None:
        """Lose the store, and the log if the backup has it; start on the restored ones."""
        await asyncio.to_thread(self.daemon.stop)
        if self.cluster is not None:
            database = self.daemon.store_url.partition("@/")[2].partition("?")[0]
            self.cluster.run(f"DROP DATABASE {database} WITH (FORCE)")
            self.cluster.run(f"CREATE DATABASE {database}")
        for path in self.daemon.directory.glob("store.sqlite*"):
            path.unlink()
        if number:
            shutil.rmtree(self.daemon.audit_path.parent)
        self.clock.move(ahead)
        await asyncio.to_thread(self._command, "restore", self.backup(number))
        await asyncio.to_thread(self.daemon.start)

    def _command(self, *arguments: str | Path) -> None:
        command = hsmd(*arguments, "--config", self.daemon.config)
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
        assert done.returncode == 0, done.stderr

    async def confirm_again(self) -> None:
        """The management key that a backup has proves nothing before an operator confirms it: it may have been replaced since."""
        async with self.connection() as connection:
            with pytest.raises(Refused):
                await self.owner.get(connection, RECORD)
        await confirm(self.daemon, OWNER, self.owner.statement.fingerprint)

    async def refused(self, reason: Reason) -> None:
        """Neither the owner gets the key, nor does a check call it usable."""
        texts = {Reason.EXPIRED: "its term ended at", Reason.RESTORED: "was restored from a backup"}
        async with self.connection() as connection:
            with pytest.raises(Conflict, match=texts[reason]):
                await self.owner.get(connection, RECORD)
            answer = await check(connection, OWNER, self.deposit.spki)
            assert (answer.usable, answer.reason) == (False, reason)
            state = State.DEACTIVATED if reason is Reason.EXPIRED else State.SUSPENDED
            assert answer.state is state

    async def told(self, name: str) -> list[Event]:
        """The announcements about the record, once what is due at this time has been announced: another term ends later."""
        async with self.connection() as connection:
            end = self.clock.now() + timedelta(seconds=2)
            await self.owner.put(connection, name, not_after=format_time(end))
            async with self.daemon.connection(OPERATOR) as operator:
                page: list[Event] = []

                async def marked() -> bool:
                    read: messages.EventPage = await operator.control(
                        messages.EventsRead(limit=500), timeout_s=10
                    )
                    page[:] = read.events
                    return any(
                        each.kind == "vault.expired" and each.subject == f"{OWNER}/{name}" for each in page
                    )

                async with asyncio.timeout(60):
                    while not await marked():
                        await asyncio.sleep(0.2)
        subject = f"{OWNER}/{RECORD}"
        return [each for each in page if each.subject == subject and each.kind.startswith("vault.expir")]

    def acquired(self) -> list[dict[str, Any]]:
        records = [each["fields"] for each in self.daemon.audit("vault.acquired")]
        return [each for each in records if each["record"] == RECORD]


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    cluster: Cluster | None = None
    url = ""
    if request.param == "postgresql":
        cluster = request.getfixturevalue("cluster")
        cluster.run("CREATE DATABASE vault_time")
        url = cluster.url("vault_time")
    built = Site(tmp_path, url, cluster)
    yield built
    built.daemon.end()
    if cluster is not None:
        cluster.run("DROP DATABASE vault_time WITH (FORCE)")


def thresholds(told: list[Event]) -> list[tuple[str, list[str]]]:
    """What was announced, and what had passed before it."""
    return [(each.payload["threshold"], each.payload["skipped"]) for each in told]


async def test_a_term_ends_once_whatever_happens_to_clock_and_store(site: Site) -> None:
    await site.begin()
    at_end = [("end", ["third", "tenth"])]

    # The end passes while the daemon is down.
    await site.restart(2.5 * HOUR)
    assert thresholds(await site.told("after-the-end")) == at_end
    await site.refused(Reason.EXPIRED)

    # The clock is set back an hour, to before the end: while the daemon runs, and while it is down.
    site.clock.move(1.5 * HOUR)
    await site.refused(Reason.EXPIRED)
    assert thresholds(await site.told("set-back")) == at_end
    await site.restart(1.5 * HOUR)
    await site.refused(Reason.EXPIRED)
    before = await site.told("started-again")
    assert thresholds(before) == at_end
    uses = Counter("released" in each for each in site.acquired())
    assert uses == {True: TAKEN, False: 3}, "what was taken, and what was refused"

    # The store is restored from before the end, the log is kept, and the clock stays back: what the store forgot frees nothing.
    after = await restored(site, 0)
    uses_later = Counter("released" in each for each in site.acquired())
    assert uses_later == {True: TAKEN, False: 6}, "no use is given back"
    assert told_of(before) == told_of(after), "a follower knows that it is the same announcement"

    # Both are restored.
    again = await restored(site, 1)
    assert Counter("released" in each for each in site.acquired()) == {True: 2, False: 3}
    assert told_of(again) == told_of(after)
    site.daemon.stop()
    assert verify_log(log_lines(site.daemon.audit_path.parent), None).intact


async def restored(site: Site, number: int) -> list[Event]:
    """Restore a backup with the clock set back; return what was announced about the end since the restore, which comes after it."""
    await site.restore(number, 1.5 * HOUR)
    await site.confirm_again()
    await site.refused(Reason.RESTORED)
    site.clock.move(2.5 * HOUR)
    await site.refused(Reason.EXPIRED)
    announced = await site.told(f"passed-{number}")
    assert [each.kind for each in announced if each.kind == "vault.expired"] == ["vault.expired"]
    site.clock.move(1.5 * HOUR)
    await site.refused(Reason.EXPIRED)
    assert await site.told(f"back-{number}") == announced
    return announced


def told_of(announced: list[Event]) -> list[tuple[int, str]]:
    """What tells that two announcements of an end are the same (docs/events.md)."""
    ends = [each.payload for each in announced if each.kind == "vault.expired"]
    return [(each["version"], each["not_after"]) for each in ends]
