"""Events while parts fail: the store goes away under followers and two daemons, and a token goes away and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hsmd.protocol import messages
from hsmd.protocol.frames import Kind
from hsmd.protocol.messages import Event
from tests.support.daemon import OPERATOR, WEB, Daemon, running_daemon
from tests.support.fault_module.control import FaultModule
from tests.support.fleet import twin_of
from tests.support.polling import eventually, wait_until
from tests.support.postgresql import Cluster
from tests.support.ssh_peer import ssh, wire

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def open_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running_daemon(tmp_path / "daemon", **options))


@asynccontextmanager
async def following(daemon: Daemon, client: str, since: str) -> AsyncIterator[list[Event]]:
    """The events that a client is sent, as they come."""
    seen: list[Event] = []

    async def collect() -> None:
        async with daemon.connection(client) as connection:
            async for event in connection.events(since):
                seen.append(event)  # noqa: PERF401  as they come

    task = asyncio.create_task(collect())
    try:
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def head(daemon: Daemon) -> str:
    return str(daemon.ask(messages.EventsRead("now")).cursor)


def renew(daemon: Daemon, key: str) -> None:
    daemon.ask(messages.CertificateSelfSigned(key, [f"{key}.test"], days=90))


async def test_followers_catch_up_when_the_store_is_back_and_keys_are_used_meanwhile(
    open_daemon: Callable[..., Daemon], cluster: Cluster
) -> None:
    cluster.run("CREATE DATABASE events_gone")
    daemon = await asyncio.to_thread(open_daemon, store_url=cluster.url("events_gone"))
    key = await asyncio.to_thread(daemon.add_key, "web")
    begin = await asyncio.to_thread(head, daemon)
    async with following(daemon, WEB, begin) as seen, await ssh(daemon, WEB) as connection:
        channel = await wire(connection)
        await asyncio.to_thread(renew, daemon, "web")
        await eventually(lambda: len(seen) == 1)
        cluster.run("ALTER DATABASE events_gone ALLOW_CONNECTIONS false")
        cluster.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'events_gone'")
        await eventually(lambda: bool(daemon.logged("store.away")), 20)
        for number in range(1, 20):
            kind, _ = await channel.use(number, key)
            assert kind == Kind.RESULT
        cluster.run("ALTER DATABASE events_gone ALLOW_CONNECTIONS true")
        await asyncio.to_thread(_until_renewed, daemon)
        await eventually(lambda: len(seen) >= 2, 20)
        assert [event.kind for event in seen] == ["certificate.replaced"] * len(seen)
        assert len({event.id for event in seen}) == len(seen)


def _until_renewed(daemon: Daemon) -> None:
    def renewed() -> bool:
        with suppress(Exception):
            renew(daemon, "web")
            return True
        return False

    wait_until(renewed, "a change is accepted", 20)


async def test_events_of_one_daemon_reach_followers_of_another_and_a_threshold_is_told_once(
    open_daemon: Callable[..., Daemon], cluster: Cluster, tmp_path: Path
) -> None:
    """Two daemons share a store; both watch the same certificate, which ends within the test."""
    cluster.run("CREATE DATABASE events_shared")
    one = await asyncio.to_thread(open_daemon, store_url=cluster.url("events_shared"))
    await asyncio.to_thread(one.add_key, "web")
    begin = await asyncio.to_thread(head, one)
    other = twin_of(one, tmp_path / "other")
    try:
        await asyncio.to_thread(other.start)
        async with following(other, OPERATOR, begin) as seen:
            await asyncio.to_thread(renew, one, "web")
            await eventually(lambda: [event.kind for event in seen] == ["certificate.replaced"])
            await asyncio.to_thread(end_soon, one, "web")
            await eventually(lambda: [event.payload.get("threshold") for event in seen][-1:] == ["end"], 30)
            told = [event.payload["threshold"] for event in seen if event.kind == "certificate.ending"]
            assert told == ["third", "tenth", "end"][-len(told) :]
    finally:
        other.end()


def end_soon(daemon: Daemon, key: str) -> None:
    """Store a certificate that ends in a few seconds."""
    pem = daemon.ask(messages.KeyRequest(key, f"{key}.test", [f"{key}.test"])).pem
    public_key = x509.load_pem_x509_csr(pem.encode()).public_key()
    issuer = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, key)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(seconds=8))
    made = builder.sign(issuer, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    daemon.ask(messages.CertificateImport(key, made, force=True))


async def test_a_token_that_goes_and_comes_back_is_told(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    daemon = await asyncio.to_thread(open_daemon, before=fault_module.before, token_settings={"probe_s": 1})
    begin = await asyncio.to_thread(head, daemon)
    async with following(daemon, OPERATOR, begin) as seen:
        fault_module.token_away()
        await eventually(lambda: [event.kind for event in seen] == ["token.away"], 20)
        fault_module.token_back()
        await eventually(lambda: [event.kind for event in seen] == ["token.away", "token.back"], 20)
    away, back = seen
    assert (away.subject, away.payload["daemon"]) == ("main", "test")
    assert away.payload["reason"] and not back.payload["reason"]


def test_a_refused_pin_and_a_disk_that_is_nearly_full_are_told(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "daemon")
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("[audit]\n", f"[audit]\nwarn_free_mib = {2**30}\n"))
    daemon.pin_file.write_text("wrong-pin-1234\n")
    try:
        daemon.begin()

        def told() -> dict[str, Event]:
            return {event.kind: event for event in daemon.ask(messages.EventsRead()).events}

        wait_until(lambda: {"logins.stopped", "log.nearly-full"} <= told().keys(), "both events", 30)
        stopped, nearly_full = told()["logins.stopped"], told()["log.nearly-full"]
        assert (stopped.subject, set(stopped.payload)) == ("main", {"daemon", "reason"})
        assert (nearly_full.subject, set(nearly_full.payload)) == ("test", {"daemon", "free_mib"})
        assert "wrong-pin" not in str(told())
    finally:
        daemon.end()
