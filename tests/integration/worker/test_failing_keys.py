"""Keys that fail while others of the token work, on a token behind the fault module: the worker lives, the caller is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsmd.daemon.ipc.worker_messages import Adopt, Describe
from hsmd.errors import BadRequest, Refused, TokenFailure
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from hsmd.purposes import Purpose
from tests.support.fault_module.control import CKR, About, Action, FaultModule, FaultyToken, Function
from tests.support.messy_tokens import OBJECTS, candidates, handshake_signature
from tests.support.tokens import generate, in_token


@pytest.fixture
def token(tmp_path: Path, fault_module: FaultModule) -> FaultyToken:
    return fault_module.before(make_token(tmp_path / "token", "faulty"))


@pytest.mark.parametrize(
    "rv",
    [CKR.USER_NOT_LOGGED_IN, CKR.KEY_FUNCTION_NOT_PERMITTED, CKR.KEY_HANDLE_INVALID, CKR.FUNCTION_FAILED,
     CKR.GENERAL_ERROR],
    ids=lambda rv: rv.name,
)  # fmt: skip
def test_one_key_fails_and_the_other_signs_in_the_same_worker(
    token: FaultyToken, fault_module: FaultModule, start, rv: CKR
) -> None:
    control = start(token, control=True).ready()
    bad, good = (generate(control, name, "p-256", ["tls-server"]) for name in ("bad", "good"))
    worker = start(token).ready()
    fault_module.mark_key("bad")
    rule = fault_module.rule(Function.SIGN_INIT, Action.RETURN, rv, about=About.MARKED_KEY)
    for _ in range(12):
        with pytest.raises(TokenFailure):
            handshake_signature(worker, bad.key)
        assert handshake_signature(worker, good.key)
    assert rule.hits == 12
    for _ in range(20):  # also if no success comes between
        with pytest.raises(TokenFailure):
            handshake_signature(worker, bad.key)
    assert handshake_signature(worker, good.key)
    assert worker.spawned.process.poll() is None
    rule.clear()
    assert handshake_signature(worker, bad.key)


@pytest.mark.parametrize("rv", [CKR.USER_NOT_LOGGED_IN, CKR.FUNCTION_FAILED], ids=lambda rv: rv.name)
def test_a_key_that_fails_when_it_is_opened_is_left_out(
    token: FaultyToken, fault_module: FaultModule, start, rv: CKR
) -> None:
    control = start(token, control=True).ready()
    bad = generate(control, "bad", "rsa-2048", ["tls12-rsa-premaster"])
    good = generate(control, "good", "p-256", ["tls-server"])
    fault_module.mark_key("bad")
    fault_module.rule(Function.DECRYPT_INIT, Action.RETURN, rv, about=About.MARKED_KEY)
    worker = start(token).ready()
    for _ in range(3):
        with pytest.raises(Refused):
            worker.use(Purpose.TLS12_RSA_PREMASTER, 0, bytes.fromhex(bad.key), bytes(256))
        assert handshake_signature(worker, good.key)


def test_a_session_that_fails_with_every_key_is_replaced(
    token: FaultyToken, fault_module: FaultModule, start
) -> None:
    control = start(token, control=True).ready()
    made = [generate(control, name, "p-256", ["tls-server"]) for name in ("one", "two")]
    worker = start(token).ready()
    fault_module.rule(Function.SIGN_INIT, Action.RETURN, CKR.USER_NOT_LOGGED_IN)
    with pytest.raises((EOFError, ConnectionError)):
        handshake_signature(worker, made[0].key)


def pin_each_time(pair: str) -> str:
    return f"{OBJECTS}show(spki({pair}('each', b'9', ALWAYS_AUTHENTICATE=True)[0]))"


@pytest.mark.parametrize("pair", ["ec_pair", "rsa_pair"])
@pytest.mark.parametrize("accept_unsafe", [False, True])
def test_a_key_that_wants_the_pin_for_each_use_is_refused_at_adoption(
    token: SoftHsmToken, start, pair: str, accept_unsafe: bool
) -> None:
    in_token(token, pin_each_time(pair))
    control = start(token, control=True).ready()
    adopt = Adopt(name="w", cka_id="39", purposes=["tls-server"], accept_unsafe=accept_unsafe)
    with pytest.raises(BadRequest, match="requires the PIN for each use"):
        control.control(adopt)
    assert control.control(Describe()).keys == []
    (candidate,) = candidates(control)
    assert "requires the PIN for each use" in candidate.unsafe


def test_a_key_that_was_adopted_before_and_wants_the_pin_for_each_use_is_not_served(
    token: SoftHsmToken, start
) -> None:
    """An earlier release gave such keys a ceiling if it was told to accept what is unsafe."""
    in_token(token, pin_each_time("ec_pair"))
    control = start(token, control=True).ready()
    other = generate(control, "other", "p-256", ["tls-server"])
    script = """
import hashlib, os
from hsmd.daemon.worker import ceilings
from hsmd.pkcs11.public_keys import read_public_half
from hsmd.purposes import expand
public, = list(session.get_objects({A.CLASS: C.PUBLIC_KEY, A.ID: b"9"}))
half = read_public_half(public)
ceilings.write(session, half, b"9", expand(["tls-server"]))
show(half.digest.hex())
"""
    digest = in_token(token, script)
    worker = start(token).ready()
    with pytest.raises(Refused):
        handshake_signature(worker, digest)
    assert handshake_signature(worker, other.key)
    described = {key.key: key for key in control.control(Describe()).keys}
    assert "requires the PIN for each use" in described[digest].problem
    assert not described[other.key].problem
