"""The promises that the worker's loop relies on, kept by SoftHSM, by the fault module without faults, and by the loop's fake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from hsmd.pkcs11.softhsm import SoftHsmToken
from tests.support.backend_contract import PROMISES, FakeSite
from tests.support.fault_module.control import FaultModule
from tests.support.tokens import ROOT, settings_of


def run_on(token: SoftHsmToken, promise: str) -> subprocess.CompletedProcess[str]:
    settings = settings_of(token, control=True).token
    return subprocess.run(
        [sys.executable, "-m", "tests.support.backend_contract", promise],
        input=msgspec.json.encode(settings).decode(),
        env={**os.environ, **token.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("promise", PROMISES)
def test_the_fake_keeps_the_promise(promise: str) -> None:
    PROMISES[promise](FakeSite())


@pytest.mark.parametrize("promise", PROMISES)
def test_softhsm_keeps_the_promise(fresh_token: SoftHsmToken, promise: str) -> None:
    done = run_on(fresh_token, promise)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("promise", PROMISES)
def test_the_fault_module_without_faults_keeps_the_promise(
    fresh_token: SoftHsmToken, fault_library: Path, tmp_path: Path, promise: str
) -> None:
    module = FaultModule(tmp_path / "faults", fault_library)
    done = run_on(module.before(fresh_token), promise)
    assert done.returncode == 0, done.stderr
    assert module.calls(), "the token was used through the module"
    module.close()


def test_a_broken_promise_is_found(fresh_token: SoftHsmToken, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_on(fresh_token, "no such promise")
    assert done.returncode == 1
    site = FakeSite()
    monkeypatch.setattr(site.backend, "scan", lambda: None)
    with pytest.raises(KeyError):
        PROMISES["a_search_finds_new_keys_and_keeps_open_ones"](site)
