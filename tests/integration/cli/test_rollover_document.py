"""docs/rollover.md, done word by word: a plan is made, looked at, approved and verified; the question is answered with --yes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsmd.anchors.root_update import RootUpdate
from hsmd.cli.base import ssh_keys
from tests.support.daemon import running_daemon
from tests.support.documents import blocks_of, in_shell, operator_home
from tests.support.tokens import ROOT
from tests.support.vault import add_client

PAGE = ROOT / "docs" / "rollover.md"


def test_the_document_can_be_followed_word_by_word(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir(mode=0o700)
    public = ssh_keys.make(tmp_path / ".ssh" / "id_ed25519", "ann")
    topology = PAGE.read_text().partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "fleet.toml").write_text(topology)
    approve, show, _ = blocks_of(PAGE)
    in_shell(approve.replace("--reason", "--yes --reason"), tmp_path)
    shown = in_shell(show, tmp_path)
    assert public.fingerprint in shown and "reviewed in change 4711" in shown
    digest = (tmp_path / "fleet.plan.approval").read_text().splitlines()[1]
    assert digest.startswith("plan ") and digest in PAGE.read_text().splitlines()


@pytest.mark.timeout(120)
def test_the_next_authority_is_made_and_linked_as_the_page_says(tmp_path: Path) -> None:
    *_, by_hand = blocks_of(PAGE)
    home = tmp_path / "home"
    with running_daemon(tmp_path / "daemon") as daemon:
        operator_home(home, daemon)
        add_client(daemon, "web1", "node")
        root = "hsmd ca init root --common-name 'Example CA 1' --for server-client --dns example.com --longest 30d"
        in_shell(f"{root}\n{by_hand}", home)
    update = RootUpdate.decode((home / "root-2.update").read_bytes())
    assert update.new_with_new.subject.rfc4514_string() == "CN=Example CA 2"
    assert update.new_with_old is not None
    assert update.new_with_old.issuer.rfc4514_string() == "CN=Example CA 1"
