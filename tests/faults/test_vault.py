"""Acquisitions whose daemon is killed: what was counted stays counted, and comes to stand in the log once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hsmd.client import Connection
from hsmd.daemon.store import Given, Store, VersionRecord
from hsmd.errors import HsmdError
from hsmd.protocol import messages
from hsmd.system.log_files import log_lines
from hsmd.transparency.lines import format_time
from hsmd.transparency.verification import verify_log
from tests.support.daemon import Daemon, running_daemon
from tests.support.polling import wait_until
from tests.support.vault import DENY, OWNER, Owner, add_client, confirm


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running_daemon(tmp_path / "daemon") as built:
        yield built


async def deposited(daemon: Daemon, **limits: Any) -> Owner:
    """An owner with a record `www`."""
    add_client(daemon, OWNER, "owner")
    owner = Owner()
    async with daemon.connection(OWNER) as connection:
        await confirm(daemon, OWNER, (await owner.register(connection)).fingerprint)
        await owner.put(connection, "www", **limits)
    return owner


def acquired(daemon: Daemon) -> list[dict[str, Any]]:
    return [each["fields"] for each in daemon.audit("vault.acquired")]


def kept(daemon: Daemon, origin: str = "hsmd/test") -> int:
    """How many acquisitions the store keeps for a log."""
    store = Store(daemon.store_url)
    try:
        return len(store.change(lambda tx: tx.vault_acquisitions.all_of(origin), versioned=False))
    finally:
        store.close()


def version_of(daemon: Daemon) -> VersionRecord:
    store = Store(daemon.store_url)
    try:
        return store.query(lambda tx: tx.vault_versions.get(OWNER, "www"))
    finally:
        store.close()


async def test_what_a_killed_daemon_has_counted_is_recorded_when_it_is_back(daemon: Daemon) -> None:
    owner = await deposited(daemon, max_uses=2, mode=DENY)
    daemon.end()
    store = Store(daemon.store_url)
    ticket, counted_at = "3-" + "ab" * 16, datetime.now(UTC)
    given = store.change(
        lambda tx: tx.vault_acquisitions.count(OWNER, "www", 0, ticket, "hsmd/test", counted_at),
        versioned=False,
    )
    store.close()
    assert isinstance(given, Given), "the process is killed here: neither record nor envelope has left"
    daemon.start()
    wait_until(lambda: len(acquired(daemon)) == 1, "the record of the acquisition", 10)
    (record,) = acquired(daemon)
    assert (record["request"], record["released"], record["ticket"]) == (1, 1, ticket)
    assert record["counted_at"] == format_time(counted_at)
    wait_until(lambda: kept(daemon) == 0, "the store has forgotten it", 10)
    async with daemon.connection(OWNER) as connection:
        got = await owner.get(connection, "www")
    assert (got.requests, got.released, got.uses_left) == (2, 2, 0), "the kill has cost a use"
    daemon.end()
    daemon.start()
    wait_until(lambda: kept(daemon) == 0, "the store has forgotten all", 10)
    assert [each["request"] for each in acquired(daemon)] == [1, 2], "each is recorded once"
    daemon.stop()
    assert verify_log(log_lines(daemon.audit_path.parent), None).intact


async def test_a_use_is_on_disk_in_the_log_before_the_envelope_leaves(daemon: Daemon) -> None:
    """Killed as soon as the answer is there: the record is there, and is not made again."""
    owner = await deposited(daemon)
    async with daemon.connection(OWNER) as connection:
        await owner.get(connection, "www")
        os.kill(daemon.front_pid, signal.SIGKILL)
    assert [each["request"] for each in acquired(daemon)] == [1]
    daemon.end()
    daemon.start()
    wait_until(lambda: kept(daemon) == 0, "the store has forgotten it", 10)
    assert [each["request"] for each in acquired(daemon)] == [1]


async def test_kills_under_load_burn_uses_and_give_none_away(daemon: Daemon) -> None:
    most = 20
    owner = await deposited(daemon, max_uses=most, mode=DENY)
    received: list[int] = []

    async def requester() -> None:
        while len(received) < most:
            try:
                async with daemon.connection(OWNER) as connection:
                    await take(connection)
            except HsmdError as error:
                if "is not given out" in error.text:
                    return
                await asyncio.sleep(0.05)

    async def take(connection: Connection) -> None:
        while True:
            got = await owner.get(connection, "www")
            received.append(got.released)
            assert owner.open(got)

    async def killed_after(count: int) -> None:
        while len(received) < count:
            await asyncio.sleep(0.002)
        daemon.end()
        await asyncio.to_thread(daemon.begin)

    async with asyncio.timeout(90):
        requesters = [asyncio.ensure_future(requester()) for _ in range(4)]
        for count in (3, 8):
            await killed_after(count)
        await asyncio.gather(*requesters)
    wait_until(lambda: kept(daemon) == 0, "every acquisition is in the log", 15)
    version = version_of(daemon)
    records = acquired(daemon)
    assert version.released == most
    assert len(received) == len(set(received)) <= most
    assert len(records) == version.requests
    assert sorted(each["request"] for each in records) == list(range(1, version.requests + 1))
    assert sorted(each["released"] for each in records if "released" in each) == list(range(1, most + 1))
    async with daemon.connection(OWNER) as connection:
        page: messages.EventPage = await connection.control(messages.EventsRead(limit=500), timeout_s=5)
    assert [each.kind for each in page.events].count("vault.over-use") == 1


async def test_an_acquisition_that_cannot_be_recorded_gives_nothing(daemon: Daemon) -> None:
    owner = await deposited(daemon)
    async with daemon.connection(OWNER) as connection:
        request = await owner.proven(connection, messages.VaultGet("www"), "www")
        moved = daemon.audit_path.with_name("moved")
        daemon.audit_path.rename(moved)
        await asyncio.sleep(0.3)
        with pytest.raises(HsmdError):
            await connection.control(request, timeout_s=5)
        moved.rename(daemon.audit_path)
        wait_until(lambda: daemon.audit_path.exists(), "the log is back", 5)
        async with asyncio.timeout(10):
            while True:
                try:
                    assert owner.open(await owner.get(connection, "www"))
                    break
                except HsmdError:
                    await asyncio.sleep(0.2)
