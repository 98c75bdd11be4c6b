"""A module that is missing, unreadable or not configured, and a token that is not there: each is told apart, with the next step."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from hsmd.pkcs11.softhsm import make_token
from tests.support.daemon import ROOT
from tests.support.users import interpreter_for_all

USER = 1 if os.geteuid() == 0 else os.geteuid()
"""The user daemon, which owns nothing here."""
GAMES = 60
"""A group of Debian that daemon is not in."""
OPEN = """
import json, os, sys
from pathlib import Path
from hsmd.errors import HsmdError
from hsmd.pkcs11.session import open_token
from hsmd.pkcs11.settings import TokenSettings
answers = {}
for name, (module, label, variables) in json.loads(sys.argv[1]).items():
    read, write = os.pipe()
    if os.fork() == 0:
        os.environ.update(variables)
        try:
            open_token(TokenSettings(module=module, label=label, name="main", pin_file="/nowhere", lock_file=sys.argv[2]))
        except HsmdError as error:
            os.write(write, error.text.encode())
        os._exit(0)
    os.close(write)
    answers[name] = open(read).read()
print(json.dumps(answers))
"""


@pytest.fixture
def answers(root: Path) -> dict[str, str]:
    """What opening a token in several ways says, as another user than root."""
    token = make_token(root / "token")
    softhsm = str(token.module)
    files = {name: root / name for name in ("unreadable.so", "text.so", "group.conf", "tokens.conf")}
    shutil.copy(softhsm, files["unreadable.so"])
    files["text.so"].write_text("not a library")
    shutil.copy(token.configuration, files["group.conf"])
    (root / "locked").mkdir()
    files["tokens.conf"].write_text(f"directories.tokendir = {root}/locked\n")
    files["unreadable.so"].chmod(0)
    files["group.conf"].chmod(0o040)
    if os.geteuid() == 0:
        os.chown(files["group.conf"], 0, GAMES)
    for path in (root / "token", *(root / "token").rglob("*")):
        os.chown(path, USER, -1)
    (root / "locked").chmod(0)
    cases = {
        "missing": (str(root / "missing.so"), "hsmd", {}),
        "missing directory": (str(root / "none" / "lib" / "missing.so"), "hsmd", {}),
        "a file on the way": (str(files["text.so"] / "missing.so"), "hsmd", {}),
        "locked directory": (str(root / "locked" / "missing.so"), "hsmd", {}),
        "unreadable": (str(files["unreadable.so"]), "hsmd", {}),
        "not a library": (str(files["text.so"]), "hsmd", {}),
        "no configuration": (softhsm, "hsmd", {"SOFTHSM2_CONF": f"{root}/missing.conf"}),
        "configuration of a group": (softhsm, "hsmd", {"SOFTHSM2_CONF": str(files["group.conf"])}),
        "token directory": (softhsm, "hsmd", {"SOFTHSM2_CONF": str(files["tokens.conf"])}),
        "no token": (softhsm, "other", token.environment),
        "works": (softhsm, "hsmd", token.environment),
    }
    python = interpreter_for_all(root, USER)
    os.chown(root, USER, -1)
    done = subprocess.run(
        [python, "-c", OPEN, json.dumps(cases), str(root / "lock")],
        capture_output=True, text=True, timeout=60, check=False, cwd="/", env={"PYTHONPATH": str(ROOT)},
        **({"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_each_fault_has_its_own_message_and_next_step(root: Path, answers: dict[str, str]) -> None:
    user = pwd.getpwuid(USER).pw_name
    assert "missing.so does not exist; install it" in answers["missing"]
    assert "none/lib/missing.so does not exist; install it" in answers["missing directory"]
    assert "text.so/missing.so does not exist; install it" in answers["a file on the way"]
    assert (
        f"locked/missing.so cannot be read by the user {user}; change its permissions"
        in (answers["locked directory"])
    )
    assert f"unreadable.so cannot be read by the user {user}; change its permissions" in answers["unreadable"]
    assert "text.so cannot be loaded: file too short" in answers["not a library"]
    assert (
        f"does not start (GeneralError): SOFTHSM2_CONF, its configuration {root}/missing.conf does not exist"
        in (answers["no configuration"])
    )
    assert (
        f"the user {user} cannot use SOFTHSM2_CONF, its configuration {root}/group.conf; change its permissions"
        in (answers["configuration of a group"])
    )
    if os.geteuid() == 0:
        assert f"usermod -aG games {user}, and restart" in answers["configuration of a group"]
    assert f"cannot use its token directory {root}/locked" in answers["token directory"]
    assert "token 'main' not found with" in answers["no token"]
    assert "no token has label 'other'; it shows 'hsmd'" in answers["no token"]
    assert ", a token that is not initialised (slot " in answers["no token"]
    assert "insert it, or correct label, serial or slot" in answers["no token"]
    assert "no PIN was tried" in answers["works"]
    assert len(set(answers.values())) == len(answers)
