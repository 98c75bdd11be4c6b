"""Control requests: each carried out, hostile ones refused with the member's name, changes recorded before their effect."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsmd.errors import BadRequest, Conflict, DeadlineExceeded, ErrorCode, HsmdError, NotFound, Refused
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind, encode_control_request
from hsmd.protocol.messages import Request
from tests.support.authority import Authority
from tests.support.daemon import AUDITOR, MAIL, OPERATOR, WEB, Daemon, public_line
from tests.support.ssh_peer import operation, ssh, wire

pytestmark = pytest.mark.timeout(60)
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def ask(shared_daemon: Daemon) -> Ask:
    return shared_daemon.ask


def refused(ask: Ask, error: type[HsmdError], request: Request, about: str = "") -> None:
    with pytest.raises(error) as caught:
        ask(request)
    assert about in caught.value.text


# --- each request once ---


def test_chains_of_several_keys(shared_daemon: Daemon, ask: Ask) -> None:
    """A front end gets those of keys on which it has a grant; the mark tells when a chain has changed."""
    for name in ("chains-a", "chains-b", "chains-c"):
        ask(messages.KeyGenerate(name, "p-256", ["tls-server"]))
    ask(messages.GrantAdd(WEB, "chains-a", ["tls-server"]))
    pems = {
        name: ask(messages.CertificateSelfSigned(name, ["x.test"])).pem for name in ("chains-a", "chains-b")
    }
    wanted = messages.CertificateChains(["chains-b", "nothing", "chains-c", "chains-a"])
    page = ask(wanted)
    assert [(chain.key, chain.pem) for chain in page.chains] == [
        ("chains-b", pems["chains-b"]),
        ("chains-a", pems["chains-a"]),
    ]
    assert page.answered == 4
    for chain in page.chains:
        assert ask(messages.KeyShow(chain.key)).certificate_mark == chain.mark
    assert ask(messages.KeyShow("chains-c")).certificate_mark == ""
    assert [chain.key for chain in ask(wanted, client=WEB).chains] == ["chains-a"]
    ask(messages.CertificateSelfSigned("chains-a", ["x.test"]))
    assert ask(messages.KeyShow("chains-a")).certificate_mark != page.chains[1].mark


def test_front_ends_report_which_certificate_they_serve(shared_daemon: Daemon, ask: Ask) -> None:
    """A report that says nothing new is not recorded, and keys without a grant are passed over."""
    ask(messages.KeyGenerate("served", "p-256", ["tls-server"]))
    ask(messages.GrantAdd(WEB, "served", ["tls-server"]))
    pem = ask(messages.CertificateSelfSigned("served", ["x.test"])).pem
    leaf = x509.load_pem_x509_certificate(pem.encode()).fingerprint(SHA256()).hex()
    report = messages.CertificateReport([messages.ServedCertificate("served", leaf)])
    other = messages.CertificateReport(
        [messages.ServedCertificate("served", "0" * 64), messages.ServedCertificate("nothing", leaf)]
    )
    page = ask(messages.CertificateServed("served"))
    assert (page.certificate, page.clients) == (leaf, [messages.ServedBy(WEB, "unreported")])
    for request, state in ((other, "other"), (report, "current")):
        assert ask(request, client=WEB).changed
        (found,) = ask(messages.CertificateServed("served")).clients
        assert (found.client, found.state, found.certificate) == (WEB, state, request.served[0].certificate)
        records = ask(messages.Status()).audit_records
        assert not ask(request, client=WEB).changed
        assert ask(messages.Status()).audit_records == records
    with pytest.raises(Refused):
        ask(report)
    with pytest.raises(Refused):
        ask(messages.CertificateServed("served"), client=WEB)
    malformed = messages.CertificateReport([messages.ServedCertificate("served", leaf.upper())])
    refused(ask, BadRequest, malformed)


def test_a_chain_with_faults_is_stored_only_by_force(shared_daemon: Daemon, ask: Ask, tmp_path: Path) -> None:
    """The reasons are warnings then, the audit log has the word, and an older certificate needs it too."""
    info = ask(messages.KeyGenerate("checked", "p-256", ["tls-server"]))
    authority = Authority(tmp_path)
    public, root = load_der_public_key(info.public_key), authority.file.read_text()
    older, newer = (
        authority.issue(public, *names, begun=timedelta(days=days)) + root
        for days, names in ((2, ["a.test", "b.test"]), (1, ["a.test"]))
    )
    alone = newer.partition(root)[0]
    refused(ask, BadRequest, messages.CertificateImport("checked", alone), "is missing: append it")
    assert ask(messages.KeyShow("checked")).certificate_not_after is None
    (warning,) = ask(messages.CertificateImport("checked", alone, force=True)).warnings
    assert "is missing: append it" in warning
    last = json.loads(shared_daemon.audit_path.read_text().splitlines()[-1])["fields"]
    assert (last["op"], last["target_force"]) == ("cert.import", "True")

    refused(ask, BadRequest, messages.CertificateImport("checked", older), "is older than the one")
    assert "is older" in ask(messages.CertificateImport("checked", older, force=True)).warnings[0]
    assert ask(messages.CertificateImport("checked", newer)).warnings == [
        "the certificate before was also for b.test"
    ]
    self_signed = messages.CertificateSelfSigned("checked", ["a.test"])
    refused(ask, BadRequest, self_signed, "a CA has issued the certificate of checked, which is valid until")
    self_signed.force = True
    assert ask(self_signed).pem == ask(messages.CertificateExport("checked")).pem
    assert ask(messages.CertificateSelfSigned("checked", ["b.test"])).pem, "in place of a self-signed one"
    ask(messages.KeyGenerate("checked-client", "p-256", ["tls-client"]))
    for_clients = load_der_public_key(ask(messages.KeyShow("checked-client")).public_key)
    refused(
        ask,
        BadRequest,
        messages.CertificateImport("checked-client", authority.issue(for_clients, "a.test") + root),
        "not for TLS clients",
    )


def test_a_key_from_generation_to_destruction(shared_daemon: Daemon, ask: Ask) -> None:
    info = ask(messages.KeyGenerate("life", "p-256", ["tls-server"]))
    public = load_der_public_key(info.public_key)
    assert (info.key_type, info.token, info.certificate_not_after) == ("p-256", "main", None)
    assert {"tls12-server", "tls13-server"} <= set(info.purposes)
    assert ask(messages.KeyShow("life")) == info
    assert info in ask(messages.KeyList(limit=500)).keys

    request = x509.load_pem_x509_csr(
        ask(messages.KeyRequest("life", "life.test", ["life.test"], ["192.0.2.1"])).pem.encode()
    )
    assert request.is_signature_valid
    assert request.public_key() == public
    pem = ask(messages.CertificateSelfSigned("life", ["life.test"], days=9)).pem
    certificate = x509.load_pem_x509_certificate(pem.encode())
    certificate.verify_directly_issued_by(certificate)
    term = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert term == timedelta(days=9, hours=1), "clients whose clock is behind accept it at once"
    assert ask(messages.CertificateExport("life")).pem == pem
    shown = ask(messages.KeyShow("life"))
    assert (shown.certificate_not_after, shown.certificate_state) == (
        certificate.not_valid_after_utc,
        "valid",
    )
    status = ask(messages.Status())
    assert status.certificates > 0
    assert "life" in [each.key for each in status.first_certificate_ends]
    assert ask(messages.MetricsRead()).certificate_ends[0] == status.first_certificate_ends[0]
    assert ask(messages.CertificateImport("life", pem)).name == "life"

    granted = ask(messages.GrantAdd(WEB, "life", ["tls13-server"]))
    assert granted.purposes == ["tls13-server"]
    assert granted in ask(messages.GrantList(key="life")).grants
    assert ask(messages.GrantExplain(WEB, "life", "tls13-server")).allowed
    explanation = ask(messages.GrantExplain(WEB, "life", "tls12-server"))
    assert (explanation.allowed, explanation.rule.partition(":")[0]) == (False, "purpose-not-granted")
    assert ask(messages.GrantRemove(WEB, "life")).changed
    assert not ask(messages.GrantRemove(WEB, "life")).changed

    assert ask(messages.KeyDestroy("life", "life")).changed
    refused(ask, NotFound, messages.KeyShow("life"))
    refused(ask, NotFound, messages.KeyDestroy("life", "life"))
    ask(messages.KeyGenerate("life", "p-256", ["tls-server"]))
    assert ask(messages.KeyShow("life")).digest != info.digest
    ask(messages.KeyDestroy("life", "life"))


def test_a_destroyed_key_stops_signing(shared_daemon: Daemon) -> None:
    key = shared_daemon.add_key("doomed")

    async def use_and_destroy() -> list[int]:
        async with (
            await ssh(shared_daemon, WEB) as connection,
            shared_daemon.connection(OPERATOR) as operator,
        ):
            channel = await wire(connection)
            kinds = [(await channel.use(1, key))[0]]
            await operator.control(messages.KeyDestroy("doomed", "doomed"), timeout_s=10)
            for number in range(2, 20):
                channel.write(operation(number, key))
                kinds.append((await channel.error(number)).code)
            return kinds

    kinds = asyncio.run(use_and_destroy())
    assert kinds == [Kind.RESULT] + [ErrorCode.REFUSED] * 18


def test_clients_are_added_and_removed(ask: Ask) -> None:
    first, second = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    made = ask(messages.ClientAdd("guest", "front-end", public_line(first)))
    assert made.fingerprints == [first.get_fingerprint()]
    both = ask(messages.ClientAdd("guest", "front-end", public_line(second)))
    assert sorted(both.fingerprints) == sorted([first.get_fingerprint(), second.get_fingerprint()])
    refused(ask, Conflict, messages.ClientAdd("guest", "front-end", public_line(second)))
    refused(ask, Conflict, messages.ClientAdd("other", "front-end", public_line(second)))
    refused(ask, Conflict, messages.ClientAdd("guest"), "already")
    refused(
        ask,
        Conflict,
        messages.ClientAdd("guest", "operator", public_line(asyncssh.generate_private_key("ssh-ed25519"))),
        "role",
    )
    assert "guest" in [client.name for client in ask(messages.ClientList(limit=500)).clients]
    ask(messages.ClientRemove("guest"))
    refused(ask, NotFound, messages.ClientRemove("guest"))
    refused(ask, BadRequest, messages.ClientRemove(OPERATOR), "connected as")


def test_a_request_is_on_disk_before_its_effect(shared_daemon: Daemon, ask: Ask) -> None:
    before = len(shared_daemon.audit())
    ask(messages.ClientAdd("recorded", "auditor", public_line(asyncssh.generate_private_key("ssh-ed25519"))))
    refused(ask, NotFound, messages.GrantAdd("recorded", "nothing", ["tls-server"]))
    ask(messages.ClientRemove("recorded"))
    events = [(record["event"], record["fields"]) for record in shared_daemon.audit()[before:]]
    assert [event for event, _ in events] == [
        "control.begun", "control.done", "control.begun", "control.failed", "control.begun", "control.done",
    ]  # fmt: skip
    assert [fields["op"] for _, fields in events[::2]] == ["client.add", "grant.add", "client.remove"]
    assert events[0][1]["target_name"] == "recorded"
    assert events[0][1]["target_role"] == "auditor"
    assert len(events[0][1]["target_public_key_sha256"]) == 64
    assert events[1][1]["begun"] == shared_daemon.audit()[before]["index"]


def test_an_adopted_key_is_served(open_daemon: Callable[..., Daemon]) -> None:
    """Removed from the store and adopted again: the token's data on a key is authoritative."""
    daemon = open_daemon()
    made = daemon.ask(messages.KeyGenerate("first", "p-256", ["tls-server"]))
    refused(daemon.ask, Conflict, messages.KeyAdopt("second", cka_label="first"), "first")
    refused(daemon.ask, BadRequest, messages.KeyAdopt("second"), "cka_id")
    refused(daemon.ask, Conflict, messages.KeyAdopt("first", cka_label="first"), "already")
    refused(daemon.ask, Conflict, messages.KeyGenerate("first", "p-256", ["tls-server"]), "already")
    refused(daemon.ask, HsmdError, messages.KeyAdopt("second", cka_id="zz"))  # type: ignore[type-abstract]
    refused(daemon.ask, HsmdError, messages.KeyAdopt("second", cka_id="00" * 20))  # type: ignore[type-abstract]
    from hsmd.daemon.store import Store

    store = Store(f"sqlite:///{daemon.directory / 'store.sqlite'}")
    store.change(lambda tx: tx.keys.remove("first"))
    store.close()
    adopted = daemon.ask(messages.KeyAdopt("second", cka_label="first"))
    assert (adopted.digest, adopted.purposes) == (made.digest, made.purposes)


async def test_reading_the_audit_log_in_pages(shared_daemon: Daemon) -> None:
    async with shared_daemon.connection(AUDITOR) as auditor:
        page = await auditor.control(messages.AuditRead(first=0, limit=3), timeout_s=5)
        assert (page.first, len(page.lines)) == (0, 3)
        assert [json.loads(line)["index"] for line in page.lines] == [0, 1, 2]
        last = await auditor.control(messages.AuditRead(first=-1, limit=500), timeout_s=5)
        assert json.loads(last.lines[0])["index"] == last.size - 1
        beyond = await auditor.control(messages.AuditRead(first=2**40), timeout_s=5)
        assert beyond.lines == []


async def test_status_matches_the_daemon(shared_daemon: Daemon) -> None:
    async with shared_daemon.connection(AUDITOR) as auditor:
        status = await auditor.control(messages.Status(), timeout_s=5)
    assert (status.draining, status.audit_writable) == (False, True)
    assert status.connections >= 1
    assert [token.state for token in status.tokens] == ["ready"]
    assert status.audit_records == len(shared_daemon.audit())


# --- ceilings limit grants ---


@pytest.mark.parametrize(
    ("key_type", "purposes"),
    [
        ("p-256", ["tls-server", "sign-digest"]),
        ("p-256", ["tls-server", "sign-message"]),
        ("rsa-2048", ["tls12-rsa-premaster", "tls-server"]),
        ("rsa-2048", ["tls12-rsa-premaster", "sign-digest"]),
        ("p-256", ["tls12-rsa-premaster"]),
        ("p-256", ["x509-certificate"]),
        ("p-256", ["everything"]),
        ("p-256", []),
        ("dsa-1024", ["tls-server"]),
        ("P-256", ["tls-server"]),
        ("", ["tls-server"]),
    ],
)
def test_ceilings_that_no_key_may_have(ask: Ask, key_type: str, purposes: list[str]) -> None:
    refused(ask, BadRequest, messages.KeyGenerate("mixed", key_type, purposes))
    refused(ask, NotFound, messages.KeyShow("mixed"))


@pytest.mark.parametrize(
    "purposes", [["sign-digest"], ["tls13-client"], ["tls13-server", "sign-message"], ["x509-request"], []]
)
def test_grants_beyond_the_ceiling(ask: Ask, purposes: list[str]) -> None:
    refused(ask, BadRequest, messages.GrantAdd(MAIL, "web", purposes))
    assert not [grant for grant in ask(messages.GrantList(client=MAIL)).grants if grant.key == "web"]


def test_only_front_ends_get_grants(ask: Ask) -> None:
    refused(ask, BadRequest, messages.GrantAdd(OPERATOR, "web", ["tls-server"]))
    refused(ask, BadRequest, messages.GrantAdd(AUDITOR, "web", ["tls-server"]))
    refused(ask, NotFound, messages.GrantAdd("unknown", "web", ["tls-server"]))


# --- hostile documents ---

NAMES = [
    "",
    "a" * 65,
    "-x",
    ".x",
    "a b",
    "a/b",
    "a\nb",
    "a\x00b",
    "ä",
    "a\u202eb",
    "a'--",
    "\x1b[2J",
    "../x",
    "*",
    "%s",
]


@pytest.mark.parametrize("name", NAMES)
async def test_bad_names_are_refused_by_member(shared_daemon: Daemon, name: str) -> None:
    documents: list[dict[str, Any]] = [
        {"op": "key.generate", "name": name, "key_type": "p-256", "purposes": ["tls-server"]},
        {"op": "client.add", "name": name},
        {"op": "client.trust-ca", "public_key": "x", "clients": [name]},
        {"op": "grant.add", "client": WEB, "key": name, "purposes": []},
        {"op": "key.destroy", "name": name, "confirm": name},
    ]
    async with await ssh(shared_daemon, OPERATOR) as connection:
        channel = await wire(connection)
        before = len(shared_daemon.audit())
        for number, document in enumerate(documents, 1):
            error = await channel.error_of_control(number, json.dumps(document).encode())
            assert error.code == ErrorCode.BAD_REQUEST
            assert "$." in error.text, "names the member"
        assert len(shared_daemon.audit()) == before


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b"{",
        b"{}",
        b'{"op":1}',
        b'{"op":"nothing"}',
        b'{"op":"whoami","x":1}',
        b'{"op":"status","op":"status"',
        b'{"op":"whoami"}{"op":"status"}',
        b"\xff\xfe",
        b'{"op":"\xff"}',
        b"[" * 30_000,
        b'{"op":' * 9_000,
        b'{"op":"key.list","limit":0}',
        b'{"op":"key.list","limit":501}',
        b'{"op":"key.list","limit":1e400}',
        b'{"op":"key.list","limit":-1}',
        b'{"op":"key.list","limit":true}',
        b'{"op":"audit.read","first":' + b"9" * 5_000 + b"}",
        b'{"op":"cert.self-signed","key":"web","dns_names":["x"],"days":0}',
        b'{"op":"key.show","name":null}',
    ],
)
async def test_malformed_documents_are_refused(shared_daemon: Daemon, document: bytes) -> None:
    async with await ssh(shared_daemon, OPERATOR) as connection:
        channel = await wire(connection)
        assert (await channel.error_of_control(1, document)).code == ErrorCode.BAD_REQUEST
        assert (await channel.control(2, messages.WhoAmI()))[0] == Kind.CONTROL_RESULT


async def test_huge_lists_are_answered_and_recorded_briefly(shared_daemon: Daemon) -> None:
    many = ["tls-server"] * 4_000
    async with await ssh(shared_daemon, OPERATOR) as connection:
        channel = await wire(connection)
        kind, _ = await channel.control(1, messages.GrantAdd(WEB, "web", many))
        assert kind == Kind.CONTROL_RESULT
        names = [f"unknown-{number}" for number in range(4_000)]
        error = await channel.error_of_control(
            2, messages.ClientTrustCa(public_line(shared_daemon.keys[WEB]), names)
        )
        assert error.code == ErrorCode.NOT_FOUND
        dns = [f"host-{number}.example" for number in range(2_500)]
        kind, _ = await channel.control(3, messages.KeyRequest("web", dns_names=dns))
        assert kind in (Kind.CONTROL_RESULT, Kind.ERROR)
        error = await channel.error_of_control(4, messages.KeyRequest("web", dns_names=["a\x00b", "\n"]))
        assert error.code == ErrorCode.BAD_REQUEST
    assert max(map(len, shared_daemon.audit_path.read_text().splitlines())) < 8_000


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-dss AAAAB3NzaC1kc3M=",
        'command="x" ssh-ed25519 AAAA',
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "ssh-ed25519 \u202e",
    ],
)
def test_malformed_public_keys_are_refused(ask: Ask, line: str) -> None:
    refused(ask, BadRequest, messages.ClientTrustCa(line, [WEB]), "public_key")


def test_two_lines_are_not_one_key(shared_daemon: Daemon, ask: Ask) -> None:
    two = "\n".join(public_line(asyncssh.generate_private_key("ssh-ed25519")) for _ in range(2))
    refused(ask, BadRequest, messages.ClientAdd("two", "front-end", two), "one line")
    private = shared_daemon.keys[WEB].export_private_key("openssh").decode()
    refused(ask, BadRequest, messages.ClientAdd("two", "front-end", private))
    weak = asyncssh.generate_private_key("ssh-rsa", key_size=1024)
    refused(ask, BadRequest, messages.ClientAdd("two", "front-end", public_line(weak)), "2048")


def test_chains_of_another_key_are_refused(ask: Ask) -> None:
    other = (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for chain in ("", "x", other.decode(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        refused(ask, BadRequest, messages.CertificateImport("web", chain))
    pem = ask(messages.CertificateSelfSigned("mail", ["mail.test"])).pem
    refused(ask, BadRequest, messages.CertificateImport("web", pem))
    refused(ask, NotFound, messages.CertificateExport("web"))


async def test_concurrent_control_requests_of_a_session_are_limited(shared_daemon: Daemon) -> None:
    """By a client that has asked for little before: frames of one that is beyond its share are not read all at once."""
    async with await ssh(shared_daemon, MAIL) as connection:
        channel = await wire(connection)
        document = messages.encode_request(messages.KeyList())
        channel.write(b"".join(encode_control_request(number, 5_000, document) for number in range(1, 21)))
        answers = [await channel.answer(number) for number in range(1, 21)]
        assert [kind for kind, _ in answers[:8]] == [Kind.CONTROL_RESULT] * 8
        assert [kind for kind, _ in answers[8:]] == [Kind.ERROR] * 12


# --- concurrent requests ---


async def test_only_one_of_concurrent_changes_succeeds(shared_daemon: Daemon) -> None:
    async with shared_daemon.connection(OPERATOR) as one, shared_daemon.connection(OPERATOR) as two:
        for request, winners in (
            (messages.KeyGenerate("race", "p-256", ["tls-server"]), 1),
            (messages.ClientAdd("race"), 1),
            (messages.GrantAdd("race", "race", ["tls-server"]), 4),
            (messages.ClientRemove("race"), 1),
            (messages.KeyDestroy("race", "race"), None),
        ):
            done = await asyncio.gather(
                *(each.control(request, timeout_s=20) for each in (one, two, one, two)),
                return_exceptions=True,
            )
            good = [each for each in done if not isinstance(each, BaseException)]
            assert all(isinstance(each, HsmdError) for each in done if isinstance(each, BaseException)), done
            assert len(good) == winners if winners is not None else good
        with pytest.raises(NotFound):
            await one.control(messages.KeyShow("race"), timeout_s=5)


async def test_a_change_is_completed_after_its_caller_disconnects(shared_daemon: Daemon) -> None:
    """A caller that disconnects during a request leaves no key that is missing from the store."""
    connection = await ssh(shared_daemon, OPERATOR)
    channel = await wire(connection)
    request = messages.encode_request(messages.KeyGenerate("orphan", "rsa-3072", ["tls-server"]))
    channel.write(encode_control_request(1, 20_000, request))
    async with asyncio.timeout(10):
        while not any(
            each["fields"].get("target_name") == "orphan" for each in shared_daemon.audit("control.begun")
        ):
            await asyncio.sleep(0.005)
    connection.abort()
    async with asyncio.timeout(20):
        while not any(
            each["fields"].get("target_name") == "orphan" for each in shared_daemon.audit("control.done")
        ):
            await asyncio.sleep(0.01)
    async with shared_daemon.connection(OPERATOR) as operator:
        assert (await operator.control(messages.KeyShow("orphan"), timeout_s=5)).key_type == "rsa-3072"
        await operator.control(messages.KeyDestroy("orphan", "orphan"), timeout_s=10)


async def test_a_change_that_outlasts_its_deadline(open_daemon: Callable[..., Daemon]) -> None:
    daemon = open_daemon()
    control = daemon.status().tokens[0].workers[-1].pid
    os.kill(control, signal.SIGSTOP)
    async with daemon.connection(OPERATOR) as operator:
        began = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded):
            await operator.control(messages.KeyGenerate("late", "p-256", ["tls-server"]), timeout_s=1)
        assert asyncio.get_running_loop().time() - began < 1.5
        # The control worker is replaced, and control requests work again.
        made = await operator.control(messages.KeyGenerate("later", "p-256", ["tls-server"]), timeout_s=15)
    assert made.name == "later"
    assert [each["event"] for each in daemon.audit() if each.get("fields", {}).get("target_name") == "late"] == [
        "control.begun", "control.failed",
    ]  # fmt: skip


async def test_an_auditor_cannot_request_changes(shared_daemon: Daemon) -> None:
    async with shared_daemon.connection(AUDITOR) as auditor:
        for request in (
            messages.ClientAdd("x"),
            messages.GrantRemove(WEB, "web"),
            messages.KeyRequest("web"),
        ):
            with pytest.raises(Refused):
                await auditor.control(request, timeout_s=5)
