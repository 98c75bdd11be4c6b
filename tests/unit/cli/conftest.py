"""Fixtures for tests of the command line: a home of its own, a daemon in memory, and a runner of command lines."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hsmd import cli

from .fake_daemon import FakeDaemon


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command line ended and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, which is also the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "SUDO_UID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs one `hsmd` command line in this process."""

    def run_line(*arguments: str, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        code = cli.run(arguments)
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return run_line


@pytest.fixture
def daemon(home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    """A daemon that every command reaches, by an operator profile in the home directory."""
    from hsmd.cli.base import connection

    configuration = home / ".config" / "hsmd"
    configuration.mkdir(parents=True)
    (configuration / "operator.toml").write_text(
        'daemon = "192.0.2.1:7440"\nuser = "alice"\nidentity = "id"\nhost_keys = ["ssh-ed25519 AAAA"]\n'
    )
    made = FakeDaemon()
    monkeypatch.setattr(connection, "connect", lambda profile, witness=None: made)
    return made
