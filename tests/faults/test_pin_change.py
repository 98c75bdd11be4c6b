"""A new PIN: the token gets no wrong one, handshakes go on, and a copy that systemd made of the old one is not tried again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmd.pkcs11.softhsm import SoftHsmToken
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind
from tests.support.daemon import OPERATOR, WEB, Daemon, running_daemon
from tests.support.fault_module.control import FaultModule, FaultyToken
from tests.support.polling import wait_until
from tests.support.processes import environment, hsmd, run
from tests.support.ssh_peer import ssh, wire

NEW = "a new pin"
CHANGE = """
import sys, pkcs11
token = pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2])
old, new = sys.stdin.read().split("\\n")[:2]
token.open(rw=True, user_pin=old).set_pin(old, new)
"""


@pytest.fixture
def built(tmp_path: Path, fault_module: FaultModule) -> Iterator[Daemon]:
    """A daemon with three signing workers on a token that counts wrong PINs."""
    fault_module.lock_pin_after(3)
    with running_daemon(tmp_path / "daemon", workers=2, spare=True, before=fault_module.before) as made:
        yield made


def change_pin(token: SoftHsmToken, old: str, new: str) -> None:
    """As a vendor's tool does, in a process of its own."""
    assert isinstance(token, FaultyToken)
    done = subprocess.run(
        [sys.executable, "-c", CHANGE, str(token.module), token.label],
        input=f"{old}\n{new}\n", text=True, capture_output=True, check=False, timeout=30,
        env=environment(**token.environment),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def command(built: Daemon, *arguments: str) -> tuple[int, str]:
    """Exit code and output of an operator's command."""
    host, port = built.address
    identity = built.directory / OPERATOR
    where = [
        "--daemon",
        f"{host}:{port}",
        "--user",
        OPERATOR,
        "--identity",
        identity,
        "--host-key",
        built.notice["host_key"],
    ]
    done = run(hsmd(*arguments, *where))
    return done.returncode, done.stdout + done.stderr


def lose_a_worker(built: Daemon) -> None:
    restarts = built.status().tokens[0].workers[0].restarts
    os.kill(built.signing_pids()[0], signal.SIGKILL)
    wait_until(lambda: built.status().tokens[0].workers[0].restarts > restarts, within_s=10)


async def test_a_planned_change_uses_no_try_and_fails_no_signature(
    built: Daemon, fault_module: FaultModule
) -> None:
    key = built.add_key("www")
    old = built.pin_file.read_text().strip()
    async with await ssh(built, WEB) as connection:
        channel = await wire(connection)
        code, text = command(built, "token", "stop", "main", "--reason", "the yearly change")
        assert (code, "No daemon logs in to main." in text) == (0, True)
        change_pin(built.token, old, NEW)
        lose_a_worker(built)  # it is not replaced, with either PIN
        assert (await channel.use(1, key))[0] == Kind.RESULT
        built.pin_file.write_text(f"{NEW}\n")
        code, text = command(built, "token", "clear", "main")
        assert (code, "it accepts the PIN" in text) == (0, True), text
        built.wait_for_workers()
        assert (await channel.use(2, key))[0] == Kind.RESULT
    assert fault_module.wrong_logins == 0
    [token] = built.ask(messages.TokenList(), OPERATOR).tokens
    assert (token.logins, token.stopped_at) == ("allowed", None)


def test_the_pin_is_tried_although_all_workers_are_logged_in(
    built: Daemon, fault_module: FaultModule
) -> None:
    """An operator learns at once that the file holds another PIN than the token."""
    assert command(built, "token", "stop", "main")[0] == 0
    built.pin_file.write_text("mistyped\n")
    code, text = command(built, "token", "clear", "main")
    assert (code, "the token refused the PIN" in text) == (1, True), text
    assert fault_module.wrong_logins == 1
    assert built.status().tokens[0].state == "ready"


def test_a_copy_of_the_old_pin_is_not_tried_again(
    built: Daemon, fault_module: FaultModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a credential of systemd, the corrected file reaches the daemon only when it starts again."""
    built.stop()
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    copy = credentials / "pin"
    copy.touch(mode=0o600)
    old = built.pin_file.read_text().strip()
    copy.write_text(f"{old}\n")
    built.environment["CREDENTIALS_DIRECTORY"] = str(credentials)
    built.config.write_text(re.sub(r'pin_file = ".*"', 'pin_credential = "pin"', built.config.read_text()))
    built.start()
    change_pin(built.token, old, NEW)
    lose_a_worker(built)
    wait_until(lambda: built.logged("token.logins_stopped"), within_s=20)
    assert fault_module.wrong_logins == 1
    for _ in range(2):
        code, text = command(built, "token", "clear", "main")
        assert (code, "systemctl restart hsmd" in text) == (1, True), text
    assert fault_module.wrong_logins == 1
    assert built.status().tokens[0].state == "ready", "the workers that are logged in go on"
    built.stop()
    copy.unlink()
    copy.touch(mode=0o600)
    copy.write_text(f"{NEW}\n")
    built.begin()
    code, text = command(built, "token", "clear", "main")
    assert (code, fault_module.wrong_logins) == (0, 1), text
    built.wait_for_workers()


def test_a_pin_that_was_set_anew_at_the_token_is_tried_with_the_same_file(
    built: Daemon, fault_module: FaultModule
) -> None:
    """The token no longer shows that it has counted a wrong PIN."""
    right = built.pin_file.read_text().strip()
    change_pin(built.token, right, NEW)
    lose_a_worker(built)
    wait_until(lambda: built.logged("token.logins_stopped"), within_s=20)
    change_pin(built.token, NEW, right)
    code, text = command(built, "token", "clear", "main")
    assert (code, fault_module.wrong_logins) == (0, 1), text
    built.wait_for_workers()
