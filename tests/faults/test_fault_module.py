"""The fault module itself: every action, every state of the token, and its record of calls, tested through python-pkcs11."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.errors import HsmdError, TokenFailure
from hsmd.pkcs11.softhsm import make_token
from tests.support.fault_module.control import (
    ANY_BIT,
    CKR,
    Action,
    FaultModule,
    FaultyToken,
    Function,
    process_sessions,
)
from tests.support.polling import wait_until
from tests.support.tls_bytes import CERTIFICATE_VERIFY
from tests.support.tokens import RawWorker, generate, in_token

TLS13, P256, RSA_PSS = 1, 0x0403, 0x0804
CKM_ECDSA = 0x1041


@pytest.fixture
def token(tmp_path: Path, fault_module: FaultModule) -> FaultyToken:
    return fault_module.before(make_token(tmp_path / "softhsm", "faults"))


@pytest.fixture
def keys(token: FaultyToken) -> dict[str, KeyDescription]:
    control = RawWorker(token, {"control": True}).ready()
    made = {kind: generate(control, kind, kind, ["tls-server"]) for kind in ("p-256", "rsa-2048")}
    control.close()
    return made


@pytest.fixture
def worker(token: FaultyToken, keys: dict[str, KeyDescription]) -> Iterator[RawWorker]:
    running = RawWorker(token).ready()
    yield running
    running.close()


def sign(worker: RawWorker, key: KeyDescription, scheme: int = P256) -> bytes:
    return worker.use(TLS13, scheme, bytes.fromhex(key.key), CERTIFICATE_VERIFY)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_it_compiles_without_a_warning(tmp_path: Path, compiler: str) -> None:
    assert shutil.which(compiler)
    assert FaultModule.build(tmp_path, (compiler,)).exists()


def test_the_witness_records_each_use_with_input_and_output(
    worker: RawWorker, keys: dict[str, KeyDescription], fault_module: FaultModule
) -> None:
    before = len(fault_module.uses())
    answer = sign(worker, keys["p-256"])
    (call,) = fault_module.uses()[before:]
    digest = hashes.Hash(hashes.SHA256())
    digest.update(CERTIFICATE_VERIFY)
    assert call.asked == digest.finalize()
    r, s = utils.decode_dss_signature(answer)
    assert call.answer == r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert (call.function, call.argument, call.pid) == (Function.SIGN, CKM_ECDSA, worker.spawned.pid)
    sequence = [each.sequence for each in fault_module.calls()]
    assert sorted(sequence) == list(range(len(sequence))), "no call is missing or recorded twice"


def test_rules_count_skip_and_expire(
    worker: RawWorker, keys: dict[str, KeyDescription], fault_module: FaultModule
) -> None:
    rule = fault_module.rule(Function.SIGN, Action.RETURN, CKR.ARGUMENTS_BAD, skip=2, count=1)
    for number in range(5):
        if number == 2:
            with pytest.raises(TokenFailure):
                sign(worker, keys["p-256"])
        else:
            sign(worker, keys["p-256"])
    assert rule.hits == 1
    other = fault_module.rule(Function.SIGN, Action.RETURN, CKR.ARGUMENTS_BAD, pid=1)
    sign(worker, keys["p-256"])
    assert other.hits == 0
    unrestricted = fault_module.rule(Function.SIGN, Action.RETURN_AFTER, CKR.ARGUMENTS_BAD)
    used = len(fault_module.uses())
    with pytest.raises(TokenFailure):
        sign(worker, keys["p-256"])
    assert len(fault_module.uses()) == used, "a result the caller did not get is not counted"
    unrestricted.clear()
    sign(worker, keys["p-256"])


def test_the_same_seed_gives_the_same_faults(token: FaultyToken, fault_module: FaultModule) -> None:
    def pattern(seed: int) -> list[bool]:
        rule = fault_module.rule(
            Function.GENERATE_RANDOM, Action.RETURN, CKR.FUNCTION_FAILED, probability=0.3, seed=seed
        )
        drawn: list[bool] = in_token(
            token,
            "import pkcs11\nresult = []\nfor _ in range(100):\n"
            "    try: session.generate_random(64); result.append(False)\n"
            "    except pkcs11.PKCS11Error: result.append(True)\nshow(result)",
        )
        rule.clear()
        return drawn

    first, again, other = pattern(1), pattern(1), pattern(2)
    assert first == again != other
    assert 10 < sum(first) < 60


def test_answers_are_damaged_and_the_worker_notices(
    token: FaultyToken, keys: dict[str, KeyDescription], fault_module: FaultModule
) -> None:
    public = load_der_public_key(keys["p-256"].public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    fault_module.rule(Function.SIGN, Action.FLIP, ANY_BIT, seed=7)
    worker = RawWorker(token).ready()
    with pytest.raises(TokenFailure, match="faulty"):
        sign(worker, keys["rsa-2048"], RSA_PSS)
    worker.close()
    fault_module.clear()
    fault_module.rule(Function.SIGN, Action.TRUNCATE, 3)
    worker = RawWorker(token).ready()
    with pytest.raises(TokenFailure, match="faulty"):
        sign(worker, keys["p-256"])
    worker.close()
    assert len(fault_module.uses()[-1].answer) == 61


@pytest.mark.parametrize(
    ("action", "number"), [(Action.ABORT, signal.SIGABRT), (Action.CRASH, signal.SIGSEGV)]
)
def test_the_process_dies(
    worker: RawWorker, keys: dict[str, KeyDescription], fault_module: FaultModule, action: Action, number: int
) -> None:
    fault_module.rule(Function.SIGN, action)
    with pytest.raises(EOFError):
        sign(worker, keys["p-256"])
    assert worker.exit_status() == -number


def test_the_process_sleeps_and_hangs(
    worker: RawWorker, keys: dict[str, KeyDescription], fault_module: FaultModule
) -> None:
    fault_module.rule(Function.SIGN, Action.SLEEP, 50, count=1)
    sign(worker, keys["p-256"])
    call = fault_module.uses()[-1]
    assert call.ended_s - call.began_s >= 0.05
    rule = fault_module.rule(Function.SIGN, Action.HANG)
    worker.send_use(TLS13, P256, bytes.fromhex(keys["p-256"].key), CERTIFICATE_VERIFY)
    wait_until(lambda: rule.hits == 1)
    assert worker.progress.started == worker.progress.finished + 1
    assert worker.spawned.process.poll() is None


def test_a_token_that_was_away_rejects_old_sessions(token: FaultyToken, fault_module: FaultModule) -> None:
    outcome = in_token(
        token,
        "import struct\n"
        "import os, mmap\nfile = open(os.environ['HSMD_FAULT_CONTROL'], 'r+b'); page = mmap.mmap(file.fileno(), 0)\n"
        "def put(at, value): struct.pack_into('<I', page, at, value)\n"
        "def attempt(do):\n    try: do(); return 'OK'\n    except pkcs11.PKCS11Error as error: return type(error).__name__\n"
        "module = pkcs11.lib(os.environ['M']) if 'M' in os.environ else session.token.slot\n"
        "slot, result = session.token.slot, []\n"
        "use = lambda: session.generate_random(64)\n"
        "result.append(attempt(use)); put(20, 1); put(16, 2)\n"
        "result += [attempt(use), attempt(slot.get_token), attempt(lambda: session.token.open())]\n"
        "put(20, 0); result += [attempt(use), attempt(slot.get_token), attempt(lambda: session.token.open())]\nshow(result)",
    )
    assert outcome == [
        "OK",
        "DeviceRemoved",
        "TokenNotPresent",
        "TokenNotPresent",
        "SessionHandleInvalid",
        "OK",
        "OK",
    ]


def test_sessions_are_capped_over_all_processes(
    token: FaultyToken, worker: RawWorker, fault_module: FaultModule
) -> None:
    assert process_sessions(fault_module) == 1
    fault_module.cap_sessions(1)
    refused = RawWorker(token)
    event = refused.event()
    assert isinstance(event, worker_messages.Failed) and "SessionCount" in event.text
    refused.close()
    worker.spawned.process.kill()
    worker.exit_status()
    RawWorker(token).ready().close()


def test_the_pin_locks_after_so_many_tries(token: FaultyToken, fault_module: FaultModule) -> None:
    fault_module.lock_pin_after(3)
    results = in_token(
        token,
        "session.close(); token = session.token; result = []\n"
        "for _ in range(4):\n    try: token.open(user_pin='0000')\n"
        "    except pkcs11.PKCS11Error as error:\n"
        "        flags = token.slot.get_token().flags\n"
        "        result.append([type(error).__name__, [name for name in ('USER_PIN_COUNT_LOW', 'USER_PIN_FINAL_TRY', 'USER_PIN_LOCKED')"
        " if flags & pkcs11.TokenFlag[name]]])\n"
        "show(result)",
    )
    assert results == [
        ["PinIncorrect", ["USER_PIN_COUNT_LOW"]],
        ["PinIncorrect", ["USER_PIN_COUNT_LOW", "USER_PIN_FINAL_TRY"]],
        ["PinIncorrect", ["USER_PIN_COUNT_LOW", "USER_PIN_LOCKED"]],
        ["PinLocked", ["USER_PIN_COUNT_LOW", "USER_PIN_LOCKED"]],
    ]
    assert fault_module.wrong_logins == 3
    fault_module.reset_pin_tries()
    assert in_token(token, "show(True)") is True


def test_a_hidden_mechanism_is_neither_listed_nor_accepted(
    token: FaultyToken, worker: RawWorker, keys: dict[str, KeyDescription], fault_module: FaultModule
) -> None:
    listed = "show([m.value for m in session.token.slot.get_mechanisms() if isinstance(m, M)])"
    assert CKM_ECDSA in in_token(token, listed)
    fault_module.hide_mechanisms(CKM_ECDSA)
    assert CKM_ECDSA not in in_token(token, listed)
    with pytest.raises(HsmdError):
        sign(worker, keys["p-256"])


def test_a_forked_child_may_not_use_the_module(token: FaultyToken) -> None:
    result = in_token(
        token,
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: session.generate_random(64)\n"
        "    except pkcs11.PKCS11Error as error: os._exit(7 if 'not initialized' in str(error) else 8)\n"
        "    os._exit(9)\n"
        "show(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))",
    )
    assert result == 7


def test_no_function_bypasses_the_witness(token: FaultyToken) -> None:
    """Multi-part signing would return a signature without a record."""
    result = in_token(
        token,
        "pub, priv = session.generate_keypair(K.RSA, 2048)\n"
        "try: priv.sign([b'a', b'b'], mechanism=M.SHA256_RSA_PKCS); show('signed')\n"
        "except pkcs11.PKCS11Error as error: show(type(error).__name__)",
    )
    assert result == "FunctionNotSupported"
