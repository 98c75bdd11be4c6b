"""Packages are imported without programs being started to search for C libraries."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WATCH = """
import sys
STARTS = ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.fork", "os.forkpty", "os.system")
started = []
sys.addaudithook(lambda event, arguments: started.append((event, arguments[0])) if event in STARTS else None)
"""


def started_by(code: str) -> str:
    """What a process that runs this code starts. Its PATH has compilers, if this host has any."""
    done = subprocess.run(
        [sys.executable, "-c", f"{WATCH}\n{code}\nprint(started)"],
        env={**os.environ, "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import hsmd.agent.agent, hsmd.client.ssh_transport, hsmd.client.enrolment",
        "import hsmd.daemon.front.ssh.listener",
        "from hsmd.daemon.ipc import sandbox; assert sandbox.missing() == ''",
    ],
    ids=["agent", "front", "worker"],
)
def test_no_program_is_started(code: str) -> None:
    assert started_by(code) == "[]"


def test_without_the_names_it_would_be() -> None:
    assert "ldconfig" in started_by("import asyncssh")


def test_other_names_are_searched_for_as_ever() -> None:
    code = "from hsmd.system.libraries import by_soname\nimport ctypes.util\nwith by_soname(): ctypes.util.find_library('m')"
    assert "ldconfig" in started_by(code)


def test_a_missing_library_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from hsmd.daemon.ipc import sandbox
    from hsmd.system import libraries

    monkeypatch.setitem(libraries._SONAMES, "seccomp", "libnone.so.1")
    monkeypatch.delitem(sys.modules, "pyseccomp", raising=False)
    assert "libnone.so.1" in sandbox.missing()
    assert "libseccomp2 on Debian" in sandbox.missing()
