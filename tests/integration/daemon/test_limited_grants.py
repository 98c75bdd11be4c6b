"""Limited grants on a real daemon: uses, certificate requests of front ends, and what operators are told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.daemon.store import Store, WantedUse
from hsmd.errors import BadRequest, Conflict, ErrorCode, HsmdError, Refused
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind, decode_error, encode_error
from hsmd.purposes import Purpose
from hsmd.system.log_files import log_lines
from hsmd.transparency.verification import verify_log
from tests.support.daemon import MAIL, OPERATOR, ROOT, WEB, Daemon, running_daemon
from tests.support.ssh_peer import ssh, wire
from tests.support.tls_bytes import tls13

CSR = "x509-request"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("limited") / "daemon") as built:
        yield built


@pytest.fixture
def key(daemon: Daemon) -> str:
    """The name of a new key, on which no client has a grant."""
    name = f"key-{os.urandom(4).hex()}"
    daemon.add_key(name, grant_to=())
    return name


def grant(
    daemon: Daemon, key: str, *purposes: str, client: str = WEB, **limits: object
) -> messages.GrantInfo:
    info: messages.GrantInfo = daemon.ask(messages.GrantAdd(client, key, list(purposes), **limits))  # type: ignore[arg-type]
    return info


def names_in(pem: str) -> list[str]:
    request = x509.load_pem_x509_csr(pem.encode())
    assert request.is_signature_valid
    extension = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


def test_a_front_end_requests_certificates_for_allowed_names_only(daemon: Daemon, key: str) -> None:
    with pytest.raises(Refused):
        daemon.ask(messages.KeyRequest(key, dns_names=["www.example.com"]), WEB)
    info = grant(daemon, key, CSR, names=["*.example.com"], max_uses=2)
    assert (info.purposes, info.limits[0].names) == ([CSR], ["*.example.com"])
    pem = daemon.ask(messages.KeyRequest(key, dns_names=["WWW.example.com"]), WEB).pem
    assert names_in(pem) == ["www.example.com"]
    for bad in (
        messages.KeyRequest(key, dns_names=["www.example.com", "evil.example"]),
        messages.KeyRequest(key, common_name="evil.example", dns_names=["www.example.com"]),
        messages.KeyRequest(key, dns_names=["www.example.com"], ip_addresses=["192.0.2.1"]),
        messages.KeyRequest(key, dns_names=["www.example.com"], organization="Example"),
    ):
        with pytest.raises(BadRequest, match="the grant"):
            daemon.ask(bad, WEB)
    assert names_in(daemon.ask(messages.KeyRequest(key, "a.example.com", ["*.example.com"]), WEB).pem) == [
        "*.example.com"
    ]
    with pytest.raises(Refused):
        daemon.ask(messages.KeyRequest(key, dns_names=["www.example.com"]), WEB)
    (event, other) = [
        each for each in daemon.audit("grant.used") if each["fields"]["grant"] == info.limits[0].id
    ]
    assert (event["fields"]["number"], other["fields"]["number"]) == (1, 2)
    with pytest.raises(Refused):
        daemon.ask(messages.KeyRequest(key, dns_names=["www.example.com"]), MAIL)
    operators = messages.KeyRequest(key, dns_names=["evil.example"], organization="Example")
    assert names_in(daemon.ask(operators).pem) == ["evil.example"]


async def test_no_frame_asks_for_a_certificate_request(daemon: Daemon, key: str) -> None:
    """The grant is for bytes that the daemon builds; a frame would bring bytes of the client's own."""
    digest = bytes.fromhex(daemon.ask(messages.KeyShow(key)).digest)
    grant(daemon, key, CSR, names=["*.example.com"])
    assert daemon.ask(messages.KeyRequest(key, dns_names=["www.example.com"]), WEB).pem
    before = len(daemon.audit("grant.used"))
    for client in (WEB, OPERATOR, MAIL):
        async with await ssh(daemon, client) as connection:
            channel = await wire(connection)
            kind, body = await channel.use(1, digest, purpose=Purpose.X509_REQUEST)
        assert (kind, decode_error(body).code) == (Kind.ERROR, ErrorCode.REFUSED)
    assert len(daemon.audit("grant.used")) == before
    rules = {each["rule"] for each in daemon.audit("refusal") if each["key"] == digest.hex()}
    assert rules == {"purpose-not-grantable", "wrong-role"}


async def test_what_is_used_up_is_refused_in_the_same_bytes_as_what_was_never_granted(
    daemon: Daemon, key: str
) -> None:
    digest = bytes.fromhex(daemon.ask(messages.KeyShow(key)).digest)
    grant(daemon, key, "tls13-server", max_uses=1)
    async with await ssh(daemon, WEB) as connection:
        channel = await wire(connection)
        assert (await channel.use(1, digest))[0] == Kind.RESULT
        assert (await channel.use(2, digest))[0] == Kind.ERROR
        assert bytes(channel.raw).endswith(encode_error(2, Refused()))
        grant(daemon, key, "tls13-server", max_uses=2)
        assert (await channel.use(3, digest))[0] == Kind.RESULT


async def test_a_grant_ends_at_its_time(daemon: Daemon, key: str) -> None:
    digest = bytes.fromhex(daemon.ask(messages.KeyShow(key)).digest)
    soon = datetime.now(UTC) + timedelta(seconds=2)
    grant(daemon, key, "tls13-server", not_after=soon)
    answers: list[bytes | HsmdError] = []
    async with daemon.connection(WEB) as connection:
        while datetime.now(UTC) < soon + timedelta(milliseconds=100):
            try:
                answers.append(
                    await connection.use_key(
                        digest, Purpose.TLS13_SERVER, 0x0403, tls13(len(answers)), timeout_s=5
                    )
                )
            except Refused as error:
                answers.append(error)
    assert isinstance(answers[0], bytes)
    assert isinstance(answers[-1], Refused)
    explained = daemon.ask(messages.GrantExplain(WEB, key, "tls13-server"))
    assert explained.rule.startswith("grant-expired: ")
    assert (explained.limit.uses, explained.limit.not_after) == (
        sum(isinstance(each, bytes) for each in answers),
        soon,
    )
    assert key not in [each.name for each in daemon.ask(messages.KeyList(), WEB).keys]


def test_operators_see_what_is_left(daemon: Daemon, key: str) -> None:
    grant(daemon, key, "tls12-server")
    with pytest.raises(Conflict, match="without limits already"):
        grant(daemon, key, "tls-server", max_uses=3)
    grant(daemon, key, "tls13-server", max_uses=3, request="TICKET-17")
    with pytest.raises(Conflict, match="within limits already"):
        grant(daemon, key, "tls-server")
    (listed,) = daemon.ask(messages.GrantList(key=key)).grants
    assert listed.purposes == ["tls13-server", "tls12-server"]
    (limit,) = listed.limits
    assert (limit.purpose, limit.max_uses, limit.left, limit.request) == ("tls13-server", 3, 3, "TICKET-17")
    explained = daemon.ask(messages.GrantExplain(WEB, key, "tls13-server"))
    assert (explained.allowed, explained.limit) == (True, limit)
    assert daemon.ask(messages.GrantExplain(WEB, key, "tls12-server")).limit is None
    daemon.ask(messages.GrantRemove(WEB, key))
    assert daemon.ask(messages.GrantList(key=key)).grants == []


def test_a_use_is_bound_to_its_attempt_in_the_log(daemon: Daemon, key: str) -> None:
    info = grant(daemon, key, CSR, names=["example.com"])
    daemon.ask(messages.KeyRequest(key, dns_names=["example.com"]), WEB)
    (event,) = [each for each in daemon.audit("grant.used") if each["fields"]["grant"] == info.limits[0].id]
    records = {each["index"]: each for each in daemon.audit()}
    attempt = records[event["fields"]["attempt"]]
    assert (attempt["event"], attempt["client"], attempt["key_name"], attempt["purpose"]) == (
        "attempt",
        WEB,
        key,
        CSR,
    )
    assert event["fields"]["key"] == attempt["key"]
    (outcome,) = [each for each in records.values() if each.get("attempt") == attempt["index"]]
    assert attempt["index"] < event["index"] < outcome["index"]


def test_both_verifiers_accept_a_log_with_limited_uses(daemon: Daemon, key: str, tmp_path: Path) -> None:
    grant(daemon, key, CSR, names=["example.com"])
    daemon.ask(messages.KeyRequest(key, dns_names=["example.com"]), WEB)
    log, verifier = tmp_path / "log", tmp_path / "key"
    public_key = Ed25519PrivateKey.generate().public_key()  # there are no checkpoints
    verifier.write_bytes(public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    shutil.copytree(daemon.audit_path.parent, log)
    assert '"event":"grant.used"' in (log / "audit.jsonl").read_text()
    assert verify_log(log_lines(log), None).intact
    command = [sys.executable, ROOT / "scripts" / "verify-audit", log, "--public-key", verifier]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_operators_see_uses_that_a_daemon_that_is_away_has_not_recorded(daemon: Daemon, key: str) -> None:
    """As the daemon would leave them that is killed between count and record, and does not come back."""
    info = grant(daemon, key, "tls13-server", max_uses=5)
    store = Store(daemon.store_url)
    digest = store.query(lambda tx: tx.keys.get(key)).digest
    now = datetime.now(UTC)

    def count(at: datetime) -> None:
        use = WantedUse(info.limits[0].id, "away.example/log", 7, WEB, digest, int(Purpose.TLS13_SERVER))
        store.change(lambda tx: tx.limited_grants.count([use], at), versioned=False)

    def unrecorded() -> tuple[int, int]:
        (listed,) = daemon.ask(messages.GrantList(key=key)).grants
        explained = daemon.ask(messages.GrantExplain(WEB, key, "tls13-server")).limit
        return listed.limits[0].unrecorded, explained.unrecorded

    count(now)
    assert unrecorded() == (0, 0), "a daemon that runs records it soon"
    count(now - timedelta(minutes=2))
    assert unrecorded() == (1, 1)
    assert grant(daemon, key, "tls13-server", max_uses=6).limits[0].unrecorded == 1
    store.close()
