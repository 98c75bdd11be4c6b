"""Programs of people who keep keys in a token of their own: a settings file, the PIN, one session, and no part of the daemon."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import hsmd.pkcs11
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from tests.support.fault_module.control import FaultModule
from tests.support.terminal import run_in_terminal
from tests.support.tokens import ROOT, in_token

ONLY_THE_TOKEN_EXTRA = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"sqlalchemy", "alembic", "psycopg", "prometheus_client", "pyseccomp", "pytest"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""
ASSERT_NO_DAEMON = """
loaded = [name for name in sys.modules if name.startswith("hsmd.daemon") or name.startswith("sqlalchemy")]
assert not loaded, loaded
"""
OPEN = """
from pathlib import Path
from hsmd.errors import HsmdError
from hsmd.pkcs11.session import open_token
from hsmd.pkcs11.settings_file import read_token_file
try:
    with open_token(read_token_file(Path("owner.toml"))) as token:
        print("opened", token.label)
except HsmdError as error:
    print(type(error).__name__, error.text)
"""


@pytest.fixture
def token(tmp_path: Path) -> SoftHsmToken:
    return make_token(tmp_path / "token", "owner")


def write_settings(directory: Path, token: SoftHsmToken, pin: str) -> None:
    file = directory / "owner.toml"
    file.write_text(
        f'[token]\nmodule = "{token.module}"\nlabel = "{token.label}"\nlock_file = "lock"\n{pin}\n'
    )
    file.chmod(0o600)


def example() -> str:
    """The program in the package's docstring."""
    lines = (inspect.getdoc(hsmd.pkcs11) or "").splitlines()
    return textwrap.dedent("\n".join(line for line in lines if line.startswith("    ") or not line))


def environment(token: SoftHsmToken) -> dict[str, str]:
    return {**os.environ, **token.environment, "PYTHONPATH": str(ROOT)}


def run(directory: Path, token: SoftHsmToken, program: str) -> str:
    """The output of a program that has no terminal."""
    done = subprocess.run(
        [sys.executable, "-c", ONLY_THE_TOKEN_EXTRA + program + ASSERT_NO_DAEMON],
        cwd=directory,
        env=environment(token),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def at_terminal(directory: Path, token: SoftHsmToken, *typed: tuple[str, str]) -> str:
    status, shown = run_in_terminal(
        [sys.executable, "-c", OPEN], typed, environment=environment(token), cwd=directory
    )
    assert status == 0, shown
    return shown


def test_the_documented_program_runs_with_the_extra_token_alone(tmp_path: Path, token: SoftHsmToken) -> None:
    in_token(token, 'session.generate_keypair(K.RSA, 2048, store=True, label="mine")')
    write_settings(tmp_path, token, f'pin_file = "{token.pin_file}"')
    assert run(tmp_path, token, example()) == "owner mine"


def test_the_check_for_modules_of_the_daemon_finds_them(tmp_path: Path, token: SoftHsmToken) -> None:
    with pytest.raises(AssertionError, match=r"hsmd\.daemon"):
        run(tmp_path, token, "import hsmd.daemon.config.settings")


def test_a_person_types_the_pin(tmp_path: Path, token: SoftHsmToken) -> None:
    write_settings(tmp_path, token, "prompt = true")
    pin = token.pin_file.read_text().strip()
    shown = at_terminal(tmp_path, token, ("PIN of token 'owner' (serial ", pin))
    assert "opened owner" in shown
    assert pin not in shown, "the terminal echoed it"


def test_a_wrong_pin_is_tried_once_and_the_next_question_warns(tmp_path: Path, token: SoftHsmToken) -> None:
    write_settings(tmp_path, token, "prompt = true")
    shown = at_terminal(tmp_path, token, ("PIN of token", "wrong-pin"))
    assert (
        "LoginRefused the token refused this PIN: PinIncorrect; it counts wrong PINs and does not say"
        in shown
    )
    assert "wrong-pin" not in shown
    pin = token.pin_file.read_text().strip()
    shown = at_terminal(tmp_path, token, ("The last PIN that this token got was wrong. PIN of token", pin))
    assert "opened owner" in shown


def test_without_a_terminal_nothing_is_asked(tmp_path: Path, token: SoftHsmToken) -> None:
    write_settings(tmp_path, token, "prompt = true")
    shown = run(tmp_path, token, OPEN)
    assert shown.startswith(
        "ConfigurationError PIN: there is no terminal to ask for it; run this in a terminal"
    )


def test_a_refused_pin_file_is_not_tried_again_until_it_changes(tmp_path: Path, token: SoftHsmToken) -> None:
    write_settings(tmp_path, token, f'pin_file = "{token.pin_file}"')
    right = token.pin_file.read_text()
    token.pin_file.write_text("wrong-pin\n")
    first, second = run(tmp_path, token, OPEN), run(tmp_path, token, OPEN)
    assert f"the token refused the PIN in {token.pin_file}: PinIncorrect; it counts wrong PINs" in first
    assert "wrong PIN since the last successful login; check the PIN, then log in once at a prompt" in second
    token.pin_file.write_text(right)
    write_settings(tmp_path, token, "prompt = true")
    assert "opened" in at_terminal(tmp_path, token, ("PIN of token", right.strip()))
    write_settings(tmp_path, token, f'pin_file = "{token.pin_file}"')
    assert run(tmp_path, token, OPEN) == "opened owner"


def test_the_last_tries_of_a_token_that_counts_them(
    tmp_path: Path, token: SoftHsmToken, fault_library: Path
) -> None:
    module = FaultModule(tmp_path, fault_library)
    module.lock_pin_after(3)
    counting = module.before(token)
    write_settings(tmp_path, counting, "prompt = true")
    assert "does not say how many" in at_terminal(tmp_path, counting, ("PIN of", "wrong-1"))
    assert "one more wrong PIN locks it" in at_terminal(tmp_path, counting, ("was wrong. PIN of", "wrong-2"))
    assert "one try from being locked; log in with another program" in at_terminal(tmp_path, counting)
    assert module.wrong_logins == 2, "the last try is left to the person"
    module.close()


def test_a_pin_file_that_others_can_read_is_refused(tmp_path: Path, token: SoftHsmToken) -> None:
    write_settings(tmp_path, token, f'pin_file = "{token.pin_file}"')
    token.pin_file.chmod(0o640)
    assert f"others could read the PIN: chmod 0600 {token.pin_file}" in run(tmp_path, token, OPEN)


def test_a_missing_token_is_told_from_those_that_are_there(tmp_path: Path, token: SoftHsmToken) -> None:
    write_settings(tmp_path, token, f'pin_file = "{token.pin_file}"')
    file = tmp_path / "owner.toml"
    file.write_text(file.read_text().replace('label = "owner"', 'label = "ownr"'))
    shown = run(tmp_path, token, OPEN)
    assert shown.startswith(
        f"Unavailable token 'owner.toml' not found with {token.module}: no token has label 'ownr'"
    )
    assert "it shows 'owner' (serial" in shown
    file.write_text(file.read_text().replace(str(token.module), "/nonexistent.so"))
    assert "/nonexistent.so" in run(tmp_path, token, OPEN)


def test_the_session_and_its_objects_end_with_the_block(tmp_path: Path, token: SoftHsmToken) -> None:
    write_settings(tmp_path, token, f'pin_file = "{token.pin_file}"')
    program = """
from pathlib import Path
import pkcs11
from hsmd.pkcs11.session import open_token
from hsmd.pkcs11.settings_file import read_token_file
settings = read_token_file(Path("owner.toml"), read_write=True)
for _ in range(2):
    with open_token(settings) as token:
        assert list(token.session.get_objects()) == []
        token.session.generate_key(pkcs11.KeyType.AES, 256, store=False)
        assert len(list(token.session.get_objects())) == 1
token.close()
print("closed")
"""
    assert run(tmp_path, token, program) == "closed"


def test_a_refused_pin_is_in_no_exception(tmp_path: Path, token: SoftHsmToken) -> None:
    """Not in its text, and not in the variables of its traceback, which programs log."""
    write_settings(tmp_path, token, f'pin_file = "{token.pin_file}"')
    token.pin_file.write_text("wrong-pin\n")
    program = """
from pathlib import Path
from hsmd.errors import HsmdError
from hsmd.pkcs11.session import open_token
from hsmd.pkcs11.settings_file import read_token_file

def everything(error):
    while error is not None:
        yield repr(error)
        traceback = error.__traceback__
        while traceback is not None:
            yield from map(repr, traceback.tb_frame.f_locals.values())
            traceback = traceback.tb_next
        error = error.__context__

def opened():
    settings = read_token_file(Path("owner.toml"))
    open_token(settings)

try:
    opened()
except HsmdError as error:
    found = list(everything(error))
    assert any(str(Path.cwd()) in text for text in found), "the variables are looked at"
    print(sum("wrong-pin" in text for text in found))
"""
    assert run(tmp_path, token, program) == "0"
