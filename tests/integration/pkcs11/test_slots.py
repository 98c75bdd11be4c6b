"""Choosing one of several slots and tokens: what other slots do takes no token away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from tests.support.fault_module.control import (
    CKR,
    About,
    Action,
    FaultModule,
    FaultyToken,
    Function,
    Garbled,
)
from tests.support.tokens import ROOT, in_token, settings_of

OPEN = """
import os, sys
import msgspec
from hsmd.errors import HsmdError
from hsmd.pkcs11.session import open_token
from hsmd.pkcs11.settings import TokenSettings
try:
    token = open_token(msgspec.json.decode(sys.stdin.buffer.read(), type=TokenSettings))
    print(token.serial, token.label, token.model, token.write_protected, len(token.session.generate_random(64)))
except HsmdError as error:
    print("failed:", error.text)
sys.stdout.flush()
os._exit(0)
"""


def opened(token: SoftHsmToken, **changes: object) -> str:
    """What a program prints that opens the token with these settings, or why it could not."""
    settings = settings_of(token).token
    document = msgspec.json.encode(msgspec.structs.replace(settings, **changes))
    done = subprocess.run(
        [sys.executable, "-c", OPEN],
        input=document,
        env={**os.environ, **token.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@pytest.fixture
def token(tmp_path: Path, fault_module: FaultModule) -> FaultyToken:
    return fault_module.before(make_token(tmp_path / "token", "main"))


def add_token(token: SoftHsmToken, label: str) -> None:
    """Another token in the same directory, with a PIN of its own."""
    subprocess.run(
        [
            "softhsm2-util",
            "--init-token",
            "--free",
            "--label",
            label,
            "--so-pin",
            "12345678",
            "--pin",
            "87654321",
        ],
        env={**os.environ, **token.environment},
        check=True,
        capture_output=True,
    )


SLOTS = "show([[s.slot_id, t.label, t.serial.decode()] for s in pkcs11.lib({module!r}).get_slots(True) for t in [s.get_token()]])"


def slots(token: SoftHsmToken) -> dict[str, tuple[int, str]]:
    """Slot and serial number of the tokens, by label."""
    listed = in_token(token, SLOTS.format(module=str(token.module)))
    return {label: (slot, serial) for slot, label, serial in listed}


def test_two_tokens_of_one_label_are_listed_by_serial(token: FaultyToken) -> None:
    own = slots(token)["main"][1]
    add_token(token, "main")
    shown = opened(token)
    assert shown.startswith("failed: token 'test' not found")
    assert "2 tokens have label 'main'" in shown and f"serial {own}" in shown and 'serial = "..."' in shown
    assert opened(token, label="", serial=own).startswith(f"{own} main ")


@pytest.mark.parametrize(
    "function", [Function.GET_SLOT_INFO, Function.GET_TOKEN_INFO], ids=lambda each: each.name
)
@pytest.mark.parametrize(
    "rv", [CKR.DEVICE_ERROR, CKR.GENERAL_ERROR, CKR.TOKEN_NOT_RECOGNIZED], ids=lambda each: each.name
)
def test_a_slot_that_fails_takes_no_other_token_away(
    token: FaultyToken, fault_module: FaultModule, function: Function, rv: CKR
) -> None:
    add_token(token, "other")
    found = slots(token)
    fault_module.mark_slot(found["other"][0])
    rules = [
        fault_module.rule(each, Action.RETURN, rv, about=About.MARKED_SLOT)
        for each in (function, Function.GET_TOKEN_INFO)
    ]
    slot, serial = found["main"]
    for changes in ({}, {"label": "", "serial": serial}, {"label": "", "slot": slot}):
        assert opened(token, **changes).startswith(f"{serial} main ")
    assert rules[0].hits
    if rv is not CKR.TOKEN_NOT_RECOGNIZED:
        shown = opened(token, label="missing")
        assert f"slot {found['other'][0]}, which answers" in shown


def test_the_slot_of_the_token_is_the_only_one_asked_if_it_is_chosen_by_slot(
    token: FaultyToken, fault_module: FaultModule
) -> None:
    add_token(token, "other")
    found = slots(token)
    fault_module.mark_slot(found["other"][0])
    rule = fault_module.rule(Function.GET_TOKEN_INFO, Action.HANG, about=About.MARKED_SLOT)
    assert opened(token, label="", slot=found["main"][0]).startswith(found["main"][1])
    assert not rule.hits


@pytest.mark.parametrize("how", [Garbled.PADDED_WITH_NUL, Garbled.NOT_UTF8], ids=lambda each: each.name)
def test_texts_of_a_token_in_any_encoding(
    token: FaultyToken, fault_module: FaultModule, how: Garbled
) -> None:
    serial = slots(token)["main"][1]
    fault_module.garble(how)
    shown = opened(token, label="", serial=serial)
    assert shown.startswith(serial)
    assert shown.isprintable()
    if how is Garbled.PADDED_WITH_NUL:
        assert opened(token).startswith(f"{serial} main ")
        return
    shown = opened(token)
    assert shown.startswith("failed:") and shown.isprintable()
    label = shown.split("it shows '")[1].split("'")[0]
    assert opened(token, label=label).startswith(serial)


def test_a_write_protected_token_is_opened_to_read(token: FaultyToken, fault_module: FaultModule) -> None:
    fault_module.protect_from_writing()
    assert opened(token, read_write=True).split()[-2:] == ["True", "8"]
    assert opened(token).split()[-2:] == ["False", "8"]
    assert fault_module.wrong_logins == 0
    fault_module.protect_from_writing(False)
    assert opened(token, read_write=True).split()[-2:] == ["False", "8"]
    assert len(fault_module.calls(Function.LOGIN)) == 3, "one login for each session"
