"""docs/authority.md, done word by word by an operator with a shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.daemon import OPERATOR, running_daemon
from tests.support.processes import program
from tests.support.tokens import ROOT

pytestmark = pytest.mark.timeout(180)
PAGE = ROOT / "docs" / "authority.md"
BLOCKS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_document_can_be_followed_word_by_word(tmp_path: Path) -> None:
    for needed in ("openssl", "jq"):
        program(needed)
    blocks = BLOCKS.findall(PAGE.read_text())
    assert len(blocks) >= 5
    home = tmp_path / "home"
    (home / ".config" / "hsmd").mkdir(parents=True)
    with running_daemon(tmp_path / "daemon") as daemon:
        profile = {
            "daemon": daemon.notice["addresses"][0],
            "user": OPERATOR,
            "identity": str(daemon.directory / OPERATOR),
            "host_keys": [daemon.notice["host_key"]],
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in profile.items()]
        (home / ".config" / "hsmd" / "operator.toml").write_text("\n".join(lines))
        shown = [in_shell(block, home) for block in blocks]
    assert "www.pem: OK" in shown[1]
    (revoked,) = x509.load_pem_x509_crl((home / "root.crl").read_bytes())
    alice = x509.load_pem_x509_certificate((home / "alice.pem").read_bytes())
    assert revoked.serial_number == alice.serial_number
    assert "shop.pem: OK" in shown[3]
    assert (home / "sub.csr").read_text().startswith("-----BEGIN CERTIFICATE REQUEST-----")


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
