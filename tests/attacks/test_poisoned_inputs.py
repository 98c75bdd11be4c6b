"""A13: invalid input never reaches the token, and a caller can only make its own requests fail.

SoftHSM signs zero or five thousand bytes with ECDSA without an error, so lengths are checked before. The proof of "never
reaches" is the worker's progress page, which counts before each use of a key.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hsmd.algorithms import SCHEMES, KeyType, SignatureScheme, schemes_for
from hsmd.daemon.ipc import worker_messages as token_messages
from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.errors import BadRequest, ErrorCode, HsmdError
from hsmd.pkcs11.softhsm import make_token
from hsmd.protocol.frames import Kind, decode_error, encode_control_request
from hsmd.purposes import Purpose
from tests.support.daemon import MAIL, OPERATOR, WEB, Daemon, run_aside
from tests.support.fault_module.control import CKR, FaultModule, Function
from tests.support.ssh_peer import operation, ssh, wire
from tests.support.tls_bytes import CERTIFICATE_VERIFY, P256, tls13
from tests.support.tokens import RawWorker, generate

CKM_ECDSA = 0x1041

LENGTHS = (0, 1, 16, 19, 20, 28, 31, 32, 33, 47, 48, 49, 63, 64, 65, 256, 5_000, 60_000)
KEY_SCHEMES = {"digest": schemes_for(KeyType.P256), "rsa-digest": schemes_for(KeyType.RSA_2048)}


@pytest.mark.parametrize("name", ["digest", "rsa-digest"])
def test_a_digest_must_have_the_length_of_its_hash(
    worker: RawWorker, keys: dict[str, KeyDescription], name: str
) -> None:
    """Every length with every scheme: the key is used exactly where the length matches the scheme's hash."""
    digest = bytes.fromhex(keys[name].key)
    for scheme, length in itertools.product(SignatureScheme, LENGTHS):
        fits = scheme in KEY_SCHEMES[name] and length == SCHEMES[scheme].hash_bytes
        started = worker.progress.started
        worker.send_use(Purpose.SIGN_DIGEST, scheme, digest, b"\x5a" * length)
        kind, _, body = worker.frame()
        if fits:
            assert kind == Kind.RESULT, (scheme, length, decode_error(body))
            continue
        assert kind == Kind.ERROR and decode_error(body).code == ErrorCode.PURPOSE, (scheme, length)
        assert worker.progress.started == started, f"{scheme!r} over {length} bytes reached the token"


def test_unknown_purposes_and_schemes_do_not_reach_the_token(
    worker: RawWorker, keys: dict[str, KeyDescription], request: pytest.FixtureRequest
) -> None:
    """3,000 random combinations of purpose, scheme, key and length."""
    choose = random.Random(request.config.getoption("randomly_seed", 1))
    digests = {name: bytes.fromhex(key.key) for name, key in keys.items()}
    known = {int(scheme) for scheme in SignatureScheme}
    started, pid = worker.progress.started, worker.spawned.process.pid
    for _ in range(3_000):
        name = choose.choice(list(digests))
        purpose = choose.randrange(256)
        scheme = choose.choice([0, 1, 0xFFFF, choose.randrange(0x10000)])
        if scheme in known or (
            name == "premaster" and purpose == Purpose.TLS12_RSA_PREMASTER and scheme == 0
        ):
            continue
        worker.send_use(purpose, scheme, digests[name], choose.randbytes(choose.choice(LENGTHS[:-1])))
        kind, _, body = worker.frame()
        assert kind == Kind.ERROR
        assert decode_error(body).code in (ErrorCode.PURPOSE, ErrorCode.REFUSED)
    assert worker.progress.started == started
    assert worker.spawned.process.poll() is None and worker.spawned.process.pid == pid
    assert worker.use(Purpose.TLS13_SERVER, P256, digests["ec"], CERTIFICATE_VERIFY)


POISON = [
    {"op": "generate", "name": "x" * 60_000, "key_type": "p-256", "purposes": ["tls-server"]},
    {"op": "generate", "name": "x\0y", "key_type": "p-256", "purposes": ["tls-server"]},
    {"op": "generate", "name": "x", "key_type": "p-256", "purposes": ["tls-server"], "template": {"EXTRACTABLE": True}},
    {"op": "generate", "name": "x", "key_type": "rsa-65536", "purposes": ["tls-server"]},
    {"op": "generate", "name": "x", "key_type": 2048, "purposes": ["tls-server"]},
    {"op": "generate", "name": "x", "key_type": "p-256", "purposes": ["tls-server", "wrap"]},
    {"op": "adopt", "name": "x", "cka_id": "ff" * 5_000},
    {"op": "adopt", "name": "x", "cka_id": "not hex"},
    {"op": "adopt", "name": "x", "cka_label": "l" * 60_000},
    {"op": "adopt", "name": "x", "cka_label": "x", "certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"},
    {"op": "destroy", "key": "*"},
    {"op": "wrap", "key": "00" * 32},
    {"op": "set-attribute", "key": "00" * 32, "EXTRACTABLE": True},
]  # fmt: skip


@pytest.mark.parametrize("document", POISON, ids=lambda document: f"{document['op']}")
def test_a_control_worker_checks_requests_first(control: RawWorker, document: dict[str, Any]) -> None:
    before = control.control(token_messages.Describe())
    control.send(encode_control_request(77, 60_000, json.dumps(document).encode()))
    kind, _, body = control.frame()
    assert kind == Kind.ERROR
    assert decode_error(body).code in (ErrorCode.BAD_REQUEST, ErrorCode.NOT_FOUND), decode_error(body)
    assert control.control(token_messages.Describe()) == before, "the token changed"


def test_invalid_requests_do_not_affect_other_clients(open_daemon: Callable[..., Daemon]) -> None:
    """2,000 invalid requests from one client while another client works: same workers, no failure, token ready."""
    daemon = open_daemon()
    site = daemon.add_key("site", grant_to=(WEB,))
    own = daemon.add_key("own", "rsa-2048", "sign-digest", grant_to=(MAIL,))
    workers = daemon.worker_pids()
    choose = random.Random(5)

    async def poison() -> set[int]:
        codes = set()
        async with await ssh(daemon, MAIL) as connection:
            channel = await wire(connection)
            for burst in range(20):
                ids = range(1 + burst * 100, 101 + burst * 100)
                for number in ids:
                    scheme = choose.choice([0x0804, 0x0805, 0x0806, 0x0401, 0x0403, 0, 0xFFFF])
                    data = choose.randbytes(choose.choice([0, 1, 31, 33, 5_000]))
                    channel.write(operation(number, own, data, purpose=Purpose.SIGN_DIGEST, scheme=scheme))
                codes |= {(await channel.error(number)).code for number in ids}
        return codes

    async def honest() -> list[int]:
        async with await ssh(daemon, WEB) as connection:
            channel = await wire(connection)
            return [(await channel.use(number, site, tls13(number)))[0] for number in range(1, 301)]

    async def both() -> tuple[set[int], list[int]]:
        codes, kinds = await asyncio.gather(poison(), honest())
        return codes, kinds

    codes, kinds = run_aside(both)
    assert codes == {ErrorCode.PURPOSE}
    assert set(kinds) == {Kind.RESULT}
    status = daemon.status().tokens[0]
    assert status.state == "ready"
    assert {worker.restarts for worker in status.workers} == {0}
    assert daemon.worker_pids() == workers


def test_names_are_checked_on_receipt(open_daemon: Callable[..., Daemon]) -> None:
    """Control requests of an operator: no name, label or purpose that is out of bounds reaches the token."""
    daemon = open_daemon()
    bad = [
        {"op": "key.generate", "name": name, "key_type": "p-256", "purposes": ["tls-server"]}
        for name in ("", "x" * 65, "a\nb", "\x1b[2J", "\u202ex", "a/b", "*")
    ] + [
        {"op": "key.adopt", "name": "x", "cka_label": "l" * 257},
        {"op": "client.add", "name": "x\ny", "role": "front-end"},
        {"op": "grant.add", "client": "web-1", "key": "*", "purposes": ["tls-server"]},
    ]

    async def work() -> None:
        async with await ssh(daemon, OPERATOR) as connection:
            channel = await wire(connection)
            for number, document in enumerate(bad, 1):
                error: HsmdError = await channel.error_of_control(number, json.dumps(document).encode())
                assert error.code in (ErrorCode.BAD_REQUEST, ErrorCode.NOT_FOUND), document
                assert isinstance(error, BadRequest) or error.code == ErrorCode.NOT_FOUND

    run_aside(work)
    assert not daemon.audit("control.begun")


FORBIDDEN = {Function.CREATE_OBJECT, Function.DESTROY_OBJECT, Function.GENERATE_KEY_PAIR}
"""Functions that a signing worker never calls, whatever the request."""


def test_the_module_receives_no_forbidden_call(fault_module: FaultModule, tmp_path: Path) -> None:
    """A witness inside the module: 2,000 invalid requests among valid ones, and the calls of C_Sign it counted."""
    token = fault_module.before(make_token(tmp_path / "softhsm", "witness"))
    control = RawWorker(token, {"control": True}).ready()
    tls = generate(control, "tls", "p-256", ["tls-server"])
    raw = generate(control, "raw", "p-256", ["sign-digest"])
    control.close()
    worker = RawWorker(token).ready()
    before = len(fault_module.calls())
    choose = random.Random(11)
    performed = 0
    try:
        for number in range(2_000):
            if number % 20 == 0:
                assert worker.use(Purpose.TLS13_SERVER, P256, bytes.fromhex(tls.key), CERTIFICATE_VERIFY)
                performed += 1
            key, purpose = choose.choice([(tls, choose.randrange(256)), (raw, Purpose.SIGN_DIGEST)])
            data = choose.randbytes(choose.choice([0, 1, 31, 33, 47, 5_000]))
            worker.send_use(
                purpose, choose.choice([P256, 0x0503, 0x0804, 0, 0xFFFF]), bytes.fromhex(key.key), data
            )
            kind, _, body = worker.frame()
            assert kind == Kind.ERROR
            assert decode_error(body).code in (ErrorCode.PURPOSE, ErrorCode.REFUSED)
    finally:
        worker.close()
    calls = fault_module.calls()[before:]
    signed = [call for call in calls if call.function == Function.SIGN]
    assert len(signed) == performed, "one C_Sign for each valid request, none for an invalid one"
    assert {(call.argument, len(call.asked), call.rv) for call in signed} == {(CKM_ECDSA, 32, CKR.OK)}
    assert not {call.function for call in calls} & FORBIDDEN
    assert not [call for call in calls if call.function == Function.DECRYPT]
