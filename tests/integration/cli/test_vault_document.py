"""docs/vault.md, done word by word: an owner, the same owner on another machine, an owner with a token, a checker, an operator."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmd.cli.base import profile as profiles
from hsmd.cli.base.profile import Profile
from hsmd.pkcs11.softhsm import make_token
from tests.support.daemon import OPERATOR, Daemon, running_daemon
from tests.support.tokens import ROOT
from tests.support.vault import add_client
from tests.support.vault_document import PAGE, Step, read

WORD = "correct horse battery staple"
PROMPT = re.compile(r"(assphrase[^\n]*|The same again): \Z")
FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
WITHIN_S = 150.0


class Homes:
    """Homes of people, and shells in them with a terminal at which passphrases are typed."""

    def __init__(self, directory: Path, daemon: Daemon) -> None:
        self.directory = directory
        self.daemon = daemon
        self.fingerprint = ""
        self._environment: dict[str, dict[str, str]] = {}
        self._operator()
        self._owner_with_token()

    def home(self, who: str) -> Path:
        path = self.directory / who
        path.mkdir(exist_ok=True)
        return path

    def run(self, step: Step) -> str:
        """What a step prints. AssertionError if it fails."""
        command = ["bash", "-euo", "pipefail", "-c", step.body]
        if step.kind == "python":
            command = [sys.executable, "-c", step.body]
        shown = self._in_terminal(command, step)
        if found := FINGERPRINT.findall(shown):
            self.fingerprint = found[-1]
        return shown

    def carry(self, step: Step) -> None:
        (source, path), (target, there) = (word.split(":") for word in step.body.split())
        (self.home(target) / there).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.home(source) / path, self.home(target) / there)

    def _environment_of(self, who: str) -> dict[str, str]:
        return {
            "HOME": str(self.home(who)),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TERM": "dumb",
            "COLUMNS": "200",
            "FINGERPRINT": self.fingerprint,
            **self._environment.get(who, {}),
        }

    def _in_terminal(self, command: list[str], step: Step) -> str:
        keyboard, terminal = os.openpty()
        take = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
        process = subprocess.Popen(
            [sys.executable, "-c", take, *command],
            stdin=terminal, stdout=terminal, stderr=terminal, cwd=self.home(step.who),
            env=self._environment_of(step.who), start_new_session=True,
        )  # fmt: skip
        os.close(terminal)
        shown, answered, give_up = "", 0, time.monotonic() + WITHIN_S
        try:
            while True:
                assert time.monotonic() < give_up, f"docs/vault.md:{step.line}: it waits:\n{shown}"
                if len(shown) > answered and PROMPT.search(shown):
                    answered = len(shown) + 2  # the line end of the answer is echoed
                    os.write(keyboard, f"{WORD}\n".encode())
                if not select.select([keyboard], [], [], 0.1)[0]:
                    continue
                try:
                    data = os.read(keyboard, 65_536)
                except OSError:  # EIO: the program has closed its terminal
                    break
                if not data:
                    break
                shown += data.decode(errors="replace")
            status = process.wait(30)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            os.close(keyboard)
        assert status == 0, f"docs/vault.md:{step.line}: exit code {status}:\n{shown}"
        assert WORD not in shown, "a passphrase was echoed"
        return shown

    def _operator(self) -> None:
        self._write_profile("operator", OPERATOR, self.daemon.directory / OPERATOR)

    def _write_profile(self, who: str, client: str, identity: Path) -> None:
        host, port = self.daemon.address
        made = Profile(f"{host}:{port}", client, identity, (self.daemon.notice["host_key"],))
        path = self.home(who) / ".config" / "hsmd" / "operator.toml"
        path.parent.mkdir(parents=True)
        path.write_text(profiles.render(made))

    def _owner_with_token(self) -> None:
        token = make_token(self.directory / "softhsm", "owner")
        settings = self.home("bert") / "owner.toml"
        settings.write_text(
            f'[token]\nmodule = "{token.module}"\nlabel = "owner"\npin_file = "{token.pin_file}"\nlock_file = "lock"\n'
        )
        settings.chmod(0o600)
        self._environment["bert"] = dict(token.environment)


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Homes]:
    with running_daemon(tmp_path / "daemon") as daemon:
        yield Homes(tmp_path, daemon)


@pytest.mark.timeout(600)
def test_the_document_can_be_followed_word_by_word(homes: Homes) -> None:
    add_client(homes.daemon, "bert", "owner")
    homes._write_profile("bert", "bert", homes.daemon.directory / "bert")
    shown = ""
    for step in read(PAGE.read_text()):
        if step.kind == "carry":
            homes.carry(step)
        else:
            shown += homes.run(step)
    for expected in (
        r"uses +9 of 10 left",
        r"uses left +1[0-9]",
        r"never in memory +True",
        r"verdict +match",
        r"wrapped anew +3",
    ):
        assert re.search(expected, shown), expected
    assert (homes.home("anna2") / "www.pem").read_bytes() == (homes.home("anna") / "www.pem").read_bytes()


def test_a_block_of_commands_without_a_mark_is_found() -> None:
    with pytest.raises(AssertionError, match="without a mark"):
        read("text\n```sh\nhsmd status\n```\n")
    assert [step.kind for step in read(PAGE.read_text())].count("python") == 1
