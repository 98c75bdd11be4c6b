"""Uses of keys through a complete daemon: refusals look alike and are recorded, and each purpose accepts only its own bytes."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.errors import ErrorCode, Refused
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind, decode_error, encode, encode_error, encode_hello
from hsmd.purposes import Purpose
from tests.support.daemon import AUDITOR, OPERATOR, WEB, Daemon
from tests.support.requests import minimal
from tests.support.ssh_peer import operation, ssh, wire
from tests.support.tls_bytes import P256, TLS13, tls13
from tests.support.vectors import vectors

pytestmark = pytest.mark.timeout(90)
TLS_PURPOSES = {
    Purpose.TLS13_SERVER: "tls13-server",
    Purpose.TLS13_CLIENT: "tls13-client",
    Purpose.TLS12_SERVER: "tls12-server",
    Purpose.TLS12_CLIENT: "tls12-client",
}
HOSTILE_SAMPLE = int(os.environ.get("HSMD_TEST_HOSTILE", "150"))
"""Number of hostile inputs tried under each purpose; the soak tries all."""


def digest_of(daemon: Daemon, name: str) -> bytes:
    digest: bytes = daemon.digests[name]  # type: ignore[attr-defined]
    return digest


async def test_a_granted_use_returns_a_valid_signature_with_a_complete_record(shared_daemon: Daemon) -> None:
    key = digest_of(shared_daemon, "web")
    public = load_der_public_key(shared_daemon.ask(messages.KeyShow("web")).public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    data = tls13(71)
    async with await ssh(shared_daemon, WEB) as connection:
        kind, signature = await (await wire(connection)).use(1, key, data)
    assert kind == Kind.RESULT
    public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    attempt = next(
        record
        for record in shared_daemon.audit("attempt")
        if record["asked"] == hashlib.sha256(data).hexdigest()
    )
    outcome = next(
        record for record in shared_daemon.audit("outcome") if record["attempt"] == attempt["index"]
    )
    assert attempt["index"] < outcome["index"]
    assert (attempt["client"], attempt["key"], attempt["purpose"]) == (WEB, key.hex(), "tls13-server")
    assert attempt["credential"] == shared_daemon.keys[WEB].get_fingerprint()
    assert (outcome["result"], outcome["answer"]) == ("performed", hashlib.sha256(signature).hexdigest())
    text = shared_daemon.audit_path.read_text() + shared_daemon.log_path.read_text()
    for secret in (
        data.hex(),
        signature.hex(),
        base64.b64encode(data).decode(),
        base64.b64encode(signature).decode(),
    ):
        assert secret not in text


async def test_unknown_missing_and_wrong_role_look_the_same(shared_daemon: Daemon) -> None:
    """Identical bytes on the wire; in the audit log only the rule differs."""
    web, mail = digest_of(shared_daemon, "web"), digest_of(shared_daemon, "mail")
    expected = encode_error(9, Refused())
    cases = {
        "unknown-key": (WEB, b"\x07" * 32, Purpose.TLS13_SERVER),
        "no-grant": (WEB, mail, Purpose.TLS13_SERVER),
        "purpose-outside-ceiling": (WEB, web, Purpose.SIGN_DIGEST),
        "purpose-not-grantable": (WEB, web, Purpose.X509_REQUEST),
        "wrong-role": (OPERATOR, web, Purpose.TLS13_SERVER),
    }
    shapes = set()
    for rule, (client, key, purpose) in cases.items():
        data = TLS13[:-1] + os.urandom(1)
        async with await ssh(shared_daemon, client) as connection:
            channel = await wire(connection, hello=False)
            channel.hello(operation(9, key, data, purpose=purpose))
            await channel.answer(9)
            assert bytes(channel.raw).endswith(expected), rule
        record = shared_daemon.audit("refusal")[-1]
        assert record["rule"] == rule
        assert record["asked"] == hashlib.sha256(data).hexdigest()
        shapes.add(tuple(record))
    assert len(shapes) == 1
    assert not [
        each for each in shared_daemon.audit("attempt") if each["key"] == mail.hex() and each["client"] == WEB
    ]


@pytest.mark.parametrize("purpose", [0, 6, 7, 10, 0x7F, 0x80, 0x81, 0x90, 0xFF])
async def test_unknown_and_reserved_purposes_are_refused(shared_daemon: Daemon, purpose: int) -> None:
    async with await ssh(shared_daemon, WEB) as connection:
        kind, body = await (await wire(connection)).use(1, digest_of(shared_daemon, "web"), purpose=purpose)
    assert (kind, decode_error(body).code) == (Kind.ERROR, ErrorCode.REFUSED)


FOR_FRONT_ENDS = {
    messages.WhoAmI, messages.KeyList, messages.KeyShow, messages.CertificateExport, messages.ClientRotateKey,
    messages.AuditCheckpoint, messages.AuditProve, messages.AuditAbout, messages.KeyRequest, messages.EventsRead,
    messages.EventsFollow, messages.StatementKeys, messages.CertificateChains, messages.CertificateReport,
    messages.HealthRead, messages.VaultCheck,
}  # fmt: skip
"""An explicit list, so that permitting another request to front ends changes this test."""
# Requests that are forbidden to front ends, some of them about keys with or without a grant for the front end.
FORBIDDEN: list[messages.Request] = [
    messages.Status(), messages.ClientList(), messages.GrantList(), messages.AuditRead(),
    messages.GrantExplain(WEB, "web", "tls13-server"), messages.KeyGenerate("mine", "p-256", ["tls-server"]),
    messages.KeyAdopt("mine", cka_label="x"), messages.KeyDestroy("web", "web"), messages.KeyRequest("web"),
    messages.CertificateSelfSigned("web", ["x.test"]), messages.CertificateImport("web", "x"),
    messages.ClientAdd("mine"), messages.ClientRemove(OPERATOR), messages.ClientTrustCa("ssh-ed25519 x", [WEB]),
    messages.GrantAdd(WEB, "mail", ["tls-server"]), messages.GrantRemove(WEB, "web"),
    messages.KeyShow("mail"), messages.KeyShow("nothing"), messages.CertificateExport("mail"),
    messages.CertificateExport("nothing"), messages.KeyCandidates(), messages.MetricsRead(),
    messages.KeyRename("web", "other"), messages.ClientRename(WEB, "other"), messages.ClientDistrustCa("ssh-ed25519 x"),
    messages.ClientRevoke(fingerprint="x"), messages.ClientRevoked(), messages.TokenList(), messages.TokenClear("main"),
    messages.AuditStand(), messages.AuditSeal(), messages.AuditDiscontinuity("x"),
    messages.KeyOwnerAdd("web", WEB), messages.KeyOwnerRemove("web", WEB), messages.KeyOwnerList(),
]  # fmt: skip
FORBIDDEN += [
    minimal(each)
    for each in messages.REQUESTS
    if each not in FOR_FRONT_ENDS and each not in map(type, FORBIDDEN)
]


async def test_a_front_end_controls_nothing(shared_daemon: Daemon) -> None:
    before = len(shared_daemon.audit())
    async with await ssh(shared_daemon, WEB) as connection:
        channel = await wire(connection)
        for number, request in enumerate(FORBIDDEN, 1):
            kind, body = await channel.control(number, request)
            assert encode(kind, number, body) == encode_error(number, Refused()), request
        kind, body = await channel.control(len(FORBIDDEN) + 1, messages.KeyList())
    page = messages.decode_result(body, messages.KeyPage)
    names = {key.name for key in page.keys}
    assert "web" in names
    assert "mail" not in names, "a front end sees its own keys only"
    added = shared_daemon.audit()[before:]
    assert [record["event"] for record in added] == ["control.refused"] * len(FORBIDDEN)


async def test_an_auditor_reads_and_changes_nothing(shared_daemon: Daemon) -> None:
    async with await ssh(shared_daemon, AUDITOR) as connection:
        channel = await wire(connection)
        for number, request in enumerate((messages.Status(), messages.ClientList(), messages.AuditRead()), 1):
            assert (await channel.control(number, request))[0] == Kind.CONTROL_RESULT
        for number, change in enumerate((messages.ClientAdd("x"), messages.KeyDestroy("web", "web")), 10):
            assert (await channel.error_of_control(number, change)).code == ErrorCode.REFUSED
        assert (await channel.use(30, digest_of(shared_daemon, "web")))[0] == Kind.ERROR


async def test_refusals_beyond_a_rate_are_counted(open_daemon: Callable[..., Daemon]) -> None:
    """Neither refused uses nor refused control requests fill the disk."""
    daemon = open_daemon()
    async with await ssh(daemon, WEB) as connection:
        channel = await wire(connection)
        for burst in range(10):
            channel.write(b"".join(operation(1 + burst * 300 + each, b"\x07" * 32) for each in range(300)))
            await channel.answer(burst * 300 + 300)
        assert len(daemon.audit("refusal")) < 200
        for number in range(4_000, 4_300):
            await channel.error_of_control(number, messages.Status())
    assert len(daemon.audit("control.refused")) < 200
    assert daemon.ask(messages.Status()).operations["refused"] == 3_000


# --- bytes that no purpose accepts ---


async def test_hostile_bytes_are_not_signed(shared_daemon: Daemon) -> None:
    """A key with every TLS purpose; bytes of every kind that another protocol accepts a signature of."""
    key = _key(shared_daemon, "every-tls", "p-256", "tls-server", "tls-client")
    corpus = [entry for entry in vectors("purposes/hostile.json") if "p-256" in entry["keys"]]
    sample = corpus[:: max(1, len(corpus) // HOSTILE_SAMPLE)]
    assert len(sample) >= min(HOSTILE_SAMPLE, 100)
    async with await ssh(shared_daemon, WEB) as connection:
        channel = await wire(connection)
        number = 0
        for entry in sample:
            data = base64.b64decode(entry["data"])
            asked = []
            for purpose in TLS_PURPOSES:
                number += 1
                asked.append(number)
                channel.write(operation(number, key, data, purpose=purpose, deadline_ms=20_000))
            for each in asked:
                error = await channel.error(each)
                assert error.code == ErrorCode.PURPOSE, (entry["name"], error)
        assert (await channel.use(number + 1, key))[0] == Kind.RESULT, "the key works"
    attempts = [record for record in shared_daemon.audit("attempt") if record["key"] == key.hex()]
    outcomes = {record["attempt"]: record for record in shared_daemon.audit("outcome")}
    assert len(attempts) == number + 1
    assert [outcomes[each["index"]]["result"] for each in attempts] == ["refused"] * number + ["performed"]
    assert not any("answer" in outcomes[each["index"]] for each in attempts[:-1])


async def test_schemes_of_other_keys_are_refused(shared_daemon: Daemon) -> None:
    async with await ssh(shared_daemon, WEB) as connection:
        channel = await wire(connection)
        key = digest_of(shared_daemon, "web")
        schemes = [0, 0x0201, 0x0203, 0x0401, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0807, 0x0809, 0xFFFF]
        for number, scheme in enumerate(schemes, 1):
            channel.write(operation(number, key, scheme=scheme))
            assert (await channel.error(number)).code == ErrorCode.PURPOSE, hex(scheme)
        assert (await channel.use(100, key, scheme=P256))[0] == Kind.RESULT


def _key(daemon: Daemon, name: str, key_type: str, *purposes: str) -> bytes:
    return daemon.add_key(name, key_type, *purposes)


# --- RSA premaster secrets ---


def _malformed(public: RSAPublicKey) -> dict[str, bytes]:
    numbers = public.public_numbers()
    size = 256
    secret = b"\x03\x03" + bytes(range(1, 47))

    def block(lead: bytes, tail: bytes) -> bytes:
        return lead + b"\xa7" * (size - len(lead) - len(tail)) + tail

    good = block(b"\0\2", b"\0" + secret)
    plains = {
        "block type 1": block(b"\0\1", b"\0" + secret),
        "first byte 1": block(b"\1\2", b"\0" + secret),
        "no separator": block(b"\0\2", b"\x55" + secret),
        "early zero": good[:5] + b"\0" + good[6:],
        "zero before the separator": good[:-50] + b"\0" + good[-49:],
        "47 bytes": block(b"\0\2", b"\0" + secret[:-1]),
        "49 bytes": block(b"\0\2", b"\0" + secret + b"x"),
        "empty": block(b"\0\2", b"\0"),
        "version 3.1": block(b"\0\2", b"\0\3\1" + secret[2:]),
        "version 3.4": block(b"\0\2", b"\0\3\4" + secret[2:]),
        "zero": bytes(size),
        "noise": b"\0" + hashlib.shake_256(b"noise").digest(size - 1),
        "good": good,
    }
    return {
        name: pow(int.from_bytes(plain), numbers.e, numbers.n).to_bytes(size)
        for name, plain in plains.items()
    } | {"too large": b"\xff" * size, "short": b"\x05"}


async def test_malformed_premaster_secrets_are_indistinguishable(open_daemon: Callable[..., Daemon]) -> None:
    """Status, size, audit record and log of each are like those of a valid one, and a repeated request gets the same answer,
    also from another worker and after a restart."""
    daemon = open_daemon(workers=2)
    key = daemon.add_key("old", "rsa-2048", "tls12-rsa-premaster")
    public = load_der_public_key(daemon.ask(messages.KeyShow("old")).public_key)
    assert isinstance(public, RSAPublicKey)
    cases = _malformed(public)
    assert len(cases) >= 13

    async def open_all() -> dict[str, bytes]:
        answers = {}
        async with await ssh(daemon, WEB) as connection:
            channel = await wire(connection)
            for number, (name, ciphertext) in enumerate(cases.items(), 1):
                kind, answer = await channel.use(
                    number, key, ciphertext, purpose=Purpose.TLS12_RSA_PREMASTER, scheme=0
                )
                assert (kind, len(answer), answer[:2]) == (Kind.RESULT, 48, b"\3\3"), name
                answers[name] = answer
        return answers

    lines = len(daemon.log())
    first = await open_all()
    assert first["good"] == b"\x03\x03" + bytes(range(1, 47))
    assert len(set(first.values())) == len(cases)
    assert {line["event"] for line in daemon.log()[lines:]} <= {"connection.opened", "connection.closed"}
    for number in daemon.signing_pids()[:1]:  # then the other worker and the replacement answer
        os.kill(number, signal.SIGKILL)
        assert await open_all() == first
    outcomes = {record["attempt"]: record for record in daemon.audit("outcome")}
    not_begun = {index for index, record in outcomes.items() if record["result"] == "not-performed"}
    assert len(not_begun) <= 1, (
        "the request that was on its way to the worker that was killed; it was made again"
    )
    attempts = [each for each in daemon.audit("attempt") if each["index"] not in not_begun]
    assert len(attempts) == 2 * len(cases)
    volatile = {"index", "previous", "time", "asked", "attempt", "answer"}
    attempt_shapes = {tuple((k, None if k in volatile else v) for k, v in each.items()) for each in attempts}
    outcome_shapes = {
        tuple((k, None if k in volatile else v) for k, v in outcomes[each["index"]].items())
        for each in attempts
    }
    assert (len(attempt_shapes), len(outcome_shapes)) == (1, 1)
    assert daemon.stop() == 0
    daemon.start()
    assert await open_all() == first


# --- frames that break the protocol ---


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (encode(Kind.PING, 1), ErrorCode.PROTOCOL),
        (encode_hello(0)[:-10] + b"XXXX" + encode_hello(0)[-6:], ErrorCode.PROTOCOL),
        (encode(Kind.HELLO, 0, b"HSMD\x02\x03\0\0\0\0"), ErrorCode.VERSION),
        (encode_hello(0) + encode(Kind.RESULT, 1), ErrorCode.PROTOCOL),
        (encode_hello(0) + encode(0x70, 1), ErrorCode.PROTOCOL),
        (encode_hello(0) + encode(Kind.KEY_OPERATION, 1, b"short"), ErrorCode.PROTOCOL),
        (encode_hello(0) + operation(0, b"\7" * 32), ErrorCode.PROTOCOL),
        (encode_hello(0) + operation(1, b"\7" * 32, deadline_ms=0), ErrorCode.PROTOCOL),
        (encode_hello(0) + operation(1, b"\7" * 32, deadline_ms=60_001), ErrorCode.PROTOCOL),
        (encode_hello(0) + encode(Kind.PING, 1, b"x"), ErrorCode.PROTOCOL),
        (encode_hello(0) + encode(Kind.CANCEL, 1, b"x"), ErrorCode.PROTOCOL),
        (encode_hello(0) + b"\xff\xff\xff\xff", ErrorCode.PROTOCOL),
        (encode_hello(0) + b"\0\0\0\0", ErrorCode.PROTOCOL),
        (b"GET / HTTP/1.1\r\n\r\n", ErrorCode.PROTOCOL),
    ],
)
async def test_a_protocol_violation_ends_only_its_channel(
    shared_daemon: Daemon, sent: bytes, code: ErrorCode
) -> None:
    async with await ssh(shared_daemon, WEB) as connection:
        good, bad = await wire(connection), await wire(connection, hello=False)
        bad.write(sent)
        assert (await bad.error(0)).code == code
        await bad.closed.wait()
        assert (await good.use(1, digest_of(shared_daemon, "web")))[0] == Kind.RESULT


async def test_an_open_id_cannot_be_used_again(shared_daemon: Daemon) -> None:
    async with await ssh(shared_daemon, WEB) as connection:
        channel = await wire(connection)
        key = digest_of(shared_daemon, "web")
        channel.write(operation(5, key) + operation(5, key))
        assert (await channel.error(0)).code == ErrorCode.PROTOCOL


async def test_optional_frames_are_skipped_and_pings_answered(shared_daemon: Daemon) -> None:
    async with await ssh(shared_daemon, WEB) as connection:
        channel = await wire(connection)
        channel.write(encode(0x99, 77, b"x" * 100) + encode(Kind.PING, 8) + encode(Kind.CANCEL, 12345))
        assert await channel.answer(8) == (Kind.PONG, b"")


async def test_ids_of_pings_are_apart_from_those_of_requests(shared_daemon: Daemon) -> None:
    """As docs/protocol.md says: a ping may have the id of an open request, and a pong that nothing asked for is ignored."""
    async with await ssh(shared_daemon, WEB) as connection:
        channel = await wire(connection)
        key = digest_of(shared_daemon, "web")
        channel.write(encode(Kind.PONG, 3) + operation(5, key) + encode(Kind.PING, 5))
        assert await channel.answer(5) == (Kind.PONG, b"")
        channel.frames.remove((Kind.PONG, 5, b""))
        assert (await channel.answer(5))[0] == Kind.RESULT


async def test_control_requests_need_no_capability_in_hello(shared_daemon: Daemon) -> None:
    """`hello` with bit 0 is not needed, so that clients that leave it out go on working."""
    async with await ssh(shared_daemon, WEB) as connection:
        channel = await wire(connection, hello=False)
        channel.write(encode_hello(0))
        assert (await channel.control(1, messages.WhoAmI()))[0] == Kind.CONTROL_RESULT


async def test_more_open_requests_than_welcome_allows_are_refused(
    open_daemon: Callable[..., Daemon],
) -> None:
    daemon = open_daemon(limits={"open_requests": 4})
    key = daemon.add_key("web")
    async with await ssh(daemon, WEB) as connection:
        channel = await wire(connection)
        os.kill(daemon.signing_pids()[0], signal.SIGSTOP)
        channel.write(b"".join(operation(number, key) for number in range(1, 8)))
        for number in (5, 6, 7):
            error = await channel.error(number)
            assert (error.code, error.retry_after_ms > 0) == (ErrorCode.OVERLOADED, True)
        for number in (1, 2, 3, 4):  # the stalled worker is replaced
            assert (await channel.answer(number))[0] == Kind.RESULT


async def test_a_half_closed_channel_still_gets_its_answers(shared_daemon: Daemon) -> None:
    async with await ssh(shared_daemon, WEB) as connection:
        channel = await wire(connection)
        channel.write(b"".join(operation(number, digest_of(shared_daemon, "web")) for number in range(1, 20)))
        channel.channel.write_eof()
        for number in range(1, 20):
            assert (await channel.answer(number))[0] == Kind.RESULT


async def test_a_closed_channel_does_not_affect_answers_of_others(shared_daemon: Daemon) -> None:
    """Answers of several callers come in one batch; if one caller has disconnected, the others still get theirs."""
    key = digest_of(shared_daemon, "web")
    async with await ssh(shared_daemon, WEB) as one, await ssh(shared_daemon, WEB) as other:
        for _ in range(20):
            staying, going = await wire(one), await wire(other)
            going.write(b"".join(operation(number, key) for number in range(1, 30)))
            staying.write(b"".join(operation(number, key) for number in range(1, 30)))
            going.channel.close()
            for number in range(1, 30):
                assert (await staying.answer(number))[0] == Kind.RESULT
            staying.channel.close()
            await staying.closed.wait()
            await going.closed.wait()


def test_the_rule_for_roles_is_complete() -> None:
    """Every request is in exactly one of the lists of permitted and forbidden ones."""
    forbidden = {type(request) for request in FORBIDDEN}
    about_keys = {messages.KeyShow, messages.CertificateExport, messages.KeyRequest}
    assert forbidden - about_keys == set(messages.REQUESTS) - FOR_FRONT_ENDS
    assert about_keys <= forbidden, "about keys without a grant"
