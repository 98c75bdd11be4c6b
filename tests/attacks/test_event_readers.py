"""A4: a client reads no event of another one, whatever it asks for, and none once its right to read is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import asyncssh
import pytest

from hsmd.daemon.store import Store
from hsmd.errors import HsmdError
from hsmd.protocol import messages
from hsmd.protocol.cursor import Cursor
from hsmd.protocol.frames import Kind
from hsmd.protocol.messages import Event
from hsmd.protocol.roles import Role
from tests.support.daemon import AUDITOR, MAIL, OPERATOR, WEB, Daemon, public_line, running_daemon
from tests.support.polling import eventually
from tests.support.ssh_peer import ssh, wire

pytestmark = pytest.mark.timeout(120)
OWNER, READER, CHECKER = "owner-1", "reader-1", "checker-1"
EVERYBODY = (OPERATOR, AUDITOR, WEB, MAIL, OWNER, READER, CHECKER)
MAY_READ = {
    "web-key": {OPERATOR, AUDITOR, WEB, OWNER, READER},
    "mail-key": {OPERATOR, AUDITOR, MAIL},
    WEB: {OPERATOR, AUDITOR, WEB},
}
"""Who may read about each subject."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with events about a key of an owner, a key of another front end, and a front end that enrolled."""
    with running_daemon(tmp_path_factory.mktemp("events") / "daemon") as built:
        for name, role in ((OWNER, "owner"), (READER, "auditor"), (CHECKER, "checker")):
            add(built, name, "front-end" if name == READER else role)
        built.ask(messages.KeyGenerate("web-key", "p-256", ["tls-server"], owner=OWNER), timeout_s=30)
        built.ask(messages.GrantAdd(WEB, "web-key", ["tls-server"]))
        built.ask(messages.KeyOwnerAdd("web-key", READER))
        built.add_key("mail-key", grant_to=(MAIL,))
        for key in ("web-key", "mail-key", "web-key"):
            built.ask(messages.CertificateSelfSigned(key, [f"{key}.test"]))
        enrol(built, WEB)
        yield built


def add(daemon: Daemon, name: str, role: str) -> None:
    daemon.keys[name] = asyncssh.generate_private_key("ssh-ed25519")
    path = daemon.directory / name
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    daemon.keys[name].write_private_key(path)
    daemon.ask(messages.ClientAdd(name, role, public_line(daemon.keys[name])))


def enrol(daemon: Daemon, name: str) -> None:
    """What the use of a one-time token for this client appends."""
    from datetime import UTC, datetime

    from hsmd.daemon.front.ledger.producers import client_enrolled

    store = Store(daemon.store_url)
    with store.write(versioned=False) as tx:
        client_enrolled(tx, tx.clients.get(name), "SHA256:test", datetime.now(UTC))
    store.close()


def read(daemon: Daemon, client: str, since: str = "", limit: int = 500) -> list[Event]:
    page: messages.EventPage = daemon.ask(messages.EventsRead(since, limit), client)
    return page.events


def subjects(events: list[Event]) -> set[str]:
    return {event.subject for event in events}


@pytest.mark.parametrize("client", EVERYBODY)
def test_each_client_reads_what_concerns_it_and_nothing_else(daemon: Daemon, client: str) -> None:
    assert subjects(read(daemon, client)) == {name for name, readers in MAY_READ.items() if client in readers}


@pytest.mark.parametrize("client", [MAIL, CHECKER])
def test_no_cursor_and_no_limit_shows_more(daemon: Daemon, client: str) -> None:
    head = Cursor.parse(daemon.ask(messages.EventsRead("now")).cursor)
    asked = [f"{head.epoch}.{number}" for number in range(head.number + 2)] + ["00000000.0", "now", ""]
    seen: set[str] = set()
    for since in asked:
        for limit in (1, 500):
            seen |= subjects(read(daemon, client, since, limit))
    assert seen == {name for name, readers in MAY_READ.items() if client in readers}


@pytest.mark.parametrize("client", EVERYBODY)
async def test_a_follower_is_pushed_what_concerns_it_and_nothing_else(daemon: Daemon, client: str) -> None:
    allowed = [
        event
        for event in await asyncio.to_thread(read, daemon, OPERATOR)
        if client in MAY_READ[event.subject]
    ]
    async with await ssh(daemon, client) as connection:
        channel = await wire(connection)
        assert (await channel.control(1, messages.EventsFollow()))[0] == Kind.CONTROL_RESULT
        await eventually(lambda: len(_pushed(channel)) >= len(allowed))
        await channel.control(2, messages.WhoAmI())
        assert [one["id"] for one in _pushed(channel)] == [event.id for event in allowed]


def _pushed(channel: Any) -> list[dict[str, Any]]:
    return [json.loads(body) for kind, _, body in channel.frames if kind == Kind.EVENT]


def test_a_client_with_the_name_of_a_removed_one_inherits_nothing(daemon: Daemon) -> None:
    add(daemon, "tenant", "front-end")
    daemon.ask(messages.GrantAdd("tenant", "mail-key", ["tls-server"]))
    daemon.ask(messages.CertificateSelfSigned("mail-key", ["tenant.test"]))
    assert len(read(daemon, "tenant")) == 1
    daemon.ask(messages.ClientRemove("tenant"))
    add(daemon, "tenant", "front-end")
    assert read(daemon, "tenant") == []


async def test_a_follower_whose_role_is_taken_away_is_cut_off(daemon: Daemon) -> None:
    await asyncio.to_thread(add, daemon, "watcher", "auditor")
    await asyncio.to_thread(change_roles, daemon, "watcher", "add_role", Role.CHECKER)
    async with await ssh(daemon, "watcher") as connection:
        channel = await wire(connection)
        await channel.control(1, messages.EventsFollow("now"))
        await asyncio.to_thread(change_roles, daemon, "watcher", "remove_role", Role.AUDITOR)
        await eventually(channel.closed.is_set)
        await asyncio.to_thread(daemon.ask, messages.CertificateSelfSigned("mail-key", ["later.test"]))
        assert _pushed(channel) == []
    assert await asyncio.to_thread(read, daemon, "watcher") == []


def change_roles(daemon: Daemon, name: str, change: str, role: Role) -> None:
    """What another daemon that shares the store would do."""
    store = Store(daemon.store_url)
    with store.write() as tx:
        getattr(tx.clients, change)(name, role)
    store.close()


async def test_a_follower_whose_key_is_revoked_is_cut_off(daemon: Daemon) -> None:
    await asyncio.to_thread(add, daemon, "leaver", "auditor")
    async with await ssh(daemon, "leaver") as connection:
        channel = await wire(connection)
        await channel.control(1, messages.EventsFollow("now"))
        fingerprint = daemon.keys["leaver"].get_fingerprint()
        await asyncio.to_thread(daemon.ask, messages.ClientRevoke(fingerprint))
        await asyncio.to_thread(daemon.ask, messages.CertificateSelfSigned("mail-key", ["later.test"]))
        await eventually(channel.closed.is_set)
        assert _pushed(channel) == []
    with pytest.raises(HsmdError):
        await asyncio.to_thread(read, daemon, "leaver")


def test_payloads_hold_no_secrets_and_the_members_that_are_documented(daemon: Daemon) -> None:
    members = {
        "certificate.replaced": {"key", "certificate", "previous", "not_after"},
        "client.enrolled": {"roles", "fingerprint"},
    }
    for event in read(daemon, OPERATOR):
        assert set(event.payload) == members[event.kind]
        assert "PRIVATE" not in json.dumps(event.payload) and "BEGIN" not in json.dumps(event.payload)
