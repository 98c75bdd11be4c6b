"""docs/rollover.md, done word by word: a plan is made, looked at, approved and verified; the question is answered with --yes."""

from __future__ import annotations

from pathlib import Path

from hsmd.cli.base import ssh_keys
from tests.support.documents import blocks_of, in_shell
from tests.support.tokens import ROOT

PAGE = ROOT / "docs" / "rollover.md"


def test_the_document_can_be_followed_word_by_word(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir(mode=0o700)
    public = ssh_keys.make(tmp_path / ".ssh" / "id_ed25519", "ann")
    topology = PAGE.read_text().partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "fleet.toml").write_text(topology)
    approve, show = blocks_of(PAGE)
    in_shell(approve.replace("--reason", "--yes --reason"), tmp_path)
    shown = in_shell(show, tmp_path)
    assert public.fingerprint in shown and "reviewed in change 4711" in shown
    digest = (tmp_path / "fleet.plan.approval").read_text().splitlines()[1]
    assert digest.startswith("plan ") and digest in PAGE.read_text().splitlines()
