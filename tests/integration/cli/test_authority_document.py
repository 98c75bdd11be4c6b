"""docs/authority.md, done word by word by an operator with a shell."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from tests.support.daemon import running_daemon
from tests.support.documents import blocks_of, in_shell, operator_home
from tests.support.processes import program
from tests.support.tokens import ROOT

pytestmark = pytest.mark.timeout(180)
PAGE = ROOT / "docs" / "authority.md"


def test_the_document_can_be_followed_word_by_word(tmp_path: Path) -> None:
    for needed in ("openssl", "jq"):
        program(needed)
    blocks = blocks_of(PAGE)
    assert len(blocks) >= 5
    home = tmp_path / "home"
    with running_daemon(tmp_path / "daemon") as daemon:
        operator_home(home, daemon)
        shown = [in_shell(block, home) for block in blocks]
    assert "www.pem: OK" in shown[1]
    (revoked,) = x509.load_pem_x509_crl((home / "root.crl").read_bytes())
    alice = x509.load_pem_x509_certificate((home / "alice.pem").read_bytes())
    assert revoked.serial_number == alice.serial_number
    assert "shop.pem: OK" in shown[3]
    assert (home / "sub.csr").read_text().startswith("-----BEGIN CERTIFICATE REQUEST-----")
