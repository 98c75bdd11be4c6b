"""A7: whatever name a peer uses, each event is one line, each record is one line, and no name controls a terminal.

Records and log lines alone: tests/property/test_audit_records.py and tests/unit/test_observe.py. Here the names arrive in the
fields that an unauthenticated peer controls: banner, user name, certificate.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

import asyncssh
import pytest

from hsmd.errors import HsmdError
from hsmd.protocol import messages
from hsmd.transparency.records import parse_record, to_wire
from tests.support.cli import Run
from tests.support.daemon import OPERATOR, WEB, Daemon, public_line, run_aside
from tests.support.fake_control import FakeControl
from tests.support.polling import wait_until
from tests.support.ssh_peer import SshPeer, certificate, operation, ssh, wire

HOSTILE = [
    'x"}\n{"time":"2030-01-01T00:00:00.000Z","level":"info","process":"front","event":"connection.opened"}',
    "a\rb", "\x1b[2J\x1b]0;owned\x07", "line\u2028sep\u2029arator", "\u202egnp.exe\u2066", "\x00\x08\x7f\x85\x9b", '"},{"', "\\",
    "%s%n{0}", "\U0001f511" * 50, "x" * 5_000,
]  # fmt: skip
BANNERS = [
    b"SSH-2.0-\x1b[2J\x1b]0;x\x07\r\n", b"SSH-2.0-\xff\xfe\x80\xe2\x80\xa8\r\n", b"SSH-2.0-\xe2\x80\xaeevil\r\n", b'SSH-2.0-"},{"\r\n',
    b"SSH-2.0-" + b"A" * 300 + b"\r\n", b"A" * (1 << 20), b"\r\n\n\n\r\n{}\n", b"\x00" * 1000, b"GET / HTTP/1.1\r\n\r\n",
]  # fmt: skip


def check_log(daemon: Daemon) -> None:
    """Check that every line is one event of the daemon, in printable ASCII, and that none is forged."""
    raw = daemon.log_path.read_bytes()
    assert all(0x20 <= byte <= 0x7E or byte == 0x0A for byte in raw), "a byte that a terminal could interpret"
    for line in raw.decode().splitlines():
        found = json.loads(line)
        assert json.dumps(found, separators=(",", ":")).replace("\x7f", "\\u007f") == line
        assert {"time", "level", "process", "event"} <= set(found)
        assert len(line) < 8_192


def check_audit(daemon: Daemon) -> None:
    """Check that there are as many lines as records, each in canonical form."""
    raw = daemon.audit_path.read_bytes()
    lines = raw.split(b"\n")
    assert lines.pop() == b""
    for index, line in enumerate(lines):
        record = parse_record(line)
        assert record.index == index
        assert to_wire(record) == line


def test_unauthenticated_peers_cannot_forge_log_lines(open_daemon: Callable[..., Daemon]) -> None:
    """Banners and user names of every kind, none of which is accepted."""
    daemon = open_daemon()
    opened = len(daemon.logged("connection.opened"))
    for banner in BANNERS:
        with socket.create_connection(daemon.address, timeout=10) as peer, contextlib.suppress(OSError):
            peer.sendall(banner)
            peer.settimeout(0.3)
            while peer.recv(65_536):
                pass

    async def log_in() -> None:
        for name in HOSTILE:
            peer = await SshPeer.connect(daemon)
            with contextlib.suppress(OSError, asyncssh.Error, TimeoutError):
                peer.sign(name, daemon.keys[WEB])
                await peer.reply()
            peer.close()

    run_aside(log_in)
    assert daemon.status().version  # the daemon still serves
    refused = daemon.logged("connection.refused")
    wait_until(lambda: len(daemon.logged("connection.refused")) >= len(refused) > 0, within_s=5)
    check_log(daemon)
    assert all(line["client"] == OPERATOR for line in daemon.logged("connection.opened")[opened:])


def test_names_in_certificates_cannot_forge_log_lines(open_daemon: Callable[..., Daemon]) -> None:
    """Key ids and principals signed by a trusted CA: the log must not depend on the CA's care."""
    daemon = open_daemon()
    ca = asyncssh.generate_private_key("ssh-ed25519")
    daemon.ask(messages.ClientTrustCa(public_line(ca), [WEB]))

    async def work() -> list[bool]:
        accepted = []
        for name in HOSTILE:
            for principals in ([WEB], [name]):
                peer = await SshPeer.connect(daemon)
                shown = certificate(ca, daemon.keys[WEB], principals, key_id=name.encode())
                peer.sign(WEB, daemon.keys[WEB], shown=shown)
                with contextlib.suppress(OSError, asyncssh.Error, TimeoutError):
                    accepted.append(await peer.reply() == 52)
                peer.close()
        return accepted

    accepted = run_aside(work)
    assert len(accepted) == 2 * len(HOSTILE)
    assert sum(accepted) <= len(HOSTILE), "a certificate for another principal was accepted"
    check_log(daemon)
    check_audit(daemon)


def test_members_of_requests_cannot_forge_log_lines(open_daemon: Callable[..., Daemon]) -> None:
    """Control requests with hostile members and operations on unknown keys: refused or recorded, one line each."""
    daemon = open_daemon()

    async def work() -> None:
        for client in (WEB, OPERATOR):
            async with await ssh(daemon, client) as connection:
                channel = await wire(connection)
                number = 0
                for name in HOSTILE:
                    for request in (
                        {"op": "client.add", "name": name, "role": "front-end"},
                        {"op": "client.add", "name": "x", "role": "front-end", "public_key": name},
                        {"op": "key.adopt", "name": "x", "cka_label": name[:256], "purposes": ["tls-server"]},
                        {"op": "key.generate", "name": "x", "key_type": name, "purposes": [name[:32]]},
                        {"op": "grant.explain", "client": WEB, "key": "x", "purpose": name[:32]},
                        {"op": name},
                    ):
                        number += 1
                        error: HsmdError = await channel.error_of_control(
                            number, json.dumps(request).encode()
                        )
                        assert error.text
                for at in range(20):
                    number += 1
                    channel.write(operation(number, bytes([at]) * 32, b"\n\x1b[2J" * at))
                    await channel.error(number)

    run_aside(work)
    daemon.stop()
    check_log(daemon)
    check_audit(daemon)
    assert daemon.audit("control.begun"), "hostile labels reached the log"


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    "line",
    [
        ("client", "list"),
        ("key", "list"),
        ("grant", "list"),
        ("audit", "show"),
        ("status",),
        ("top",),
        ("grant", "explain", "web", "www", "tls13-server"),
    ],
    ids=" ".join,
)
def test_names_cannot_control_a_terminal(
    run: Run, fake_control: FakeControl, line: tuple[str, ...], name: str
) -> None:
    """A compromised daemon answers with such names: terminal output is printable, output for programs is ASCII JSON."""
    hostile_answers(fake_control, name)
    ran = run(*line)
    for text in (ran.out, ran.err):
        assert all(c.isprintable() or c == "\n" for c in text), text
    document = run(*line, "--json", *(["--count", "1"] if line == ("top",) else [])).out
    assert document.isascii() and all(c.isprintable() or c == "\n" for c in document)
    json.loads(document)


@pytest.mark.parametrize("name", HOSTILE)
def test_error_texts_cannot_control_a_terminal(run: Run, fake_control: FakeControl, name: str) -> None:
    fake_control.fail_with = HsmdError(name)
    ran = run("client", "list")
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    assert ran.err.rstrip("\n").isprintable()


def hostile_answers(fake_control: FakeControl, name: str) -> None:
    """Make the daemon answer with `name` in every text."""
    info = fake_control.on_key_generate(messages.KeyGenerate("www", "p-256", ["tls-server"]))
    info.name = info.token = info.key_type = name
    info.purposes = info.warnings = [name]
    fake_control.keys = {"www": info}
    client = fake_control.on_client_add(messages.ClientAdd("web", "front-end"))
    client.name = client.role = name
    client.fingerprints = [name]
    fake_control.grants = {(name, name): {name}}
    fake_control.use(name[:200], name[:200])
    fake_control.event("key.generate", name[:200], target_name=name[:200])
    asked: dict[str, Any] = {
        "status": fake_control.on_status,
        "metrics": fake_control.on_metrics_read,
    }
    fake_control.role = name

    def status(request: Any) -> messages.DaemonStatus:
        answer: messages.DaemonStatus = asked["status"](request)
        answer.version = answer.audit_head = name
        answer.operations = {name: 1}
        for token in answer.tokens:
            token.name = token.label = token.state = name
        return answer

    def metrics(request: Any) -> messages.Metrics:
        answer: messages.Metrics = asked["metrics"](request)
        answer.status = status(None)
        for use in answer.uses:
            use.client = use.key = use.purpose = use.outcome = name
        for latency in answer.latencies:
            latency.purpose = latency.key_type = name
        return answer

    fake_control.on_status, fake_control.on_metrics_read = status, metrics  # type: ignore[method-assign]
    fake_control.on_grant_explain = lambda _: messages.Explanation(True, name)  # type: ignore[method-assign]
