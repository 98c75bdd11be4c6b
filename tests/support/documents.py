"""Documents whose blocks of commands are run: by an operator with a shell, in a home of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.daemon import OPERATOR, Daemon
from tests.support.tokens import ROOT

_BLOCKS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(page: Path) -> list[str]:
    """The blocks of commands of a page."""
    return _BLOCKS.findall(page.read_text())


def operator_home(home: Path, daemon: Daemon) -> None:
    """Make a home with the profile of an operator of this daemon."""
    (home / ".config" / "hsmd").mkdir(parents=True)
    profile = {
        "daemon": daemon.notice["addresses"][0],
        "user": OPERATOR,
        "identity": str(daemon.directory / OPERATOR),
        "host_keys": [daemon.notice["host_key"]],
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in profile.items()]
    (home / ".config" / "hsmd" / "operator.toml").write_text("\n".join(lines))


def in_shell(block: str, home: Path) -> str:
    """What the commands of a block print. AssertionError if one fails."""
    environment = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TERM": "dumb",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=home, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr
