"""`hsmd node init` against a real daemon: in the wrong order, twice, and again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from hsmd.node import state
from hsmd.protocol import messages
from tests.support.daemon import Daemon, running_daemon
from tests.support.processes import hsmd, run

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("daemon")) as running:
        for name in ("root", "second"):
            limits = messages.AuthorityLimits(["server"], permitted_dns=["example.com"])
            running.ask(messages.CaInit(name, f"Example {name}", limits))
        yield running


def allow(daemon: Daemon, authority: str, client: str) -> None:
    daemon.ask(messages.CaAllow(authority, client, "server", dns_names=["www.example.com"]))


def init(daemon: Daemon, file: Path, client: str, *options: str, authority: str = "root") -> tuple[int, str]:
    """Exit code and output of `hsmd node init` with a new token."""
    token = file.parent.parent / f"{client}.token"
    token.write_text(daemon.ask(messages.ClientEnroll(name=client, role="node")).token)
    return init_with(token, file, *options, authority=authority)


def init_with(token: Path, file: Path, *options: str, authority: str = "root") -> tuple[int, str]:
    words = ("--enroll", token, "--authority", authority, "--program", "python", "--config", file)
    done = run(hsmd("node", "init", *words, *options))
    return done.returncode, done.stdout + done.stderr


def content(directory: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in directory.iterdir() if each.is_file()}


def anchors(file: Path) -> list[str]:
    found = x509.load_pem_x509_certificates((file.parent / "node-files/current/anchors.pem").read_bytes())
    return [each.subject.rfc4514_string() for each in found]


def test_before_it_is_allowed(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "a" / "node.toml"
    code, said = init(daemon, file, "early")
    assert (code, f"hsmd ca allow root early --for client --dns NAME\nThen here: hsmd node renew --config {file}" in said) == (
        4, True,
    )  # fmt: skip
    allow(daemon, "root", "early")
    assert run(hsmd("node", "renew", "--config", file)).returncode == 0
    assert anchors(file) == ["CN=Example root"]


def test_a_second_one_changes_nothing_and_says_how(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "a" / "node.toml"
    init(daemon, file, "twice")
    before = content(file.parent)
    code, said = init(daemon, file, "twice")
    assert (code, "--again" in said) == (1, True)
    assert content(file.parent) == before


def test_files_of_another_node_are_not_taken_over(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "a" / "node.toml"
    init(daemon, file, "mine")
    allow(daemon, "root", "mine")
    assert run(hsmd("node", "renew", "--config", file)).returncode == 0
    files = file.parent / "node-files"
    code, said = init(daemon, file.with_name("other.toml"), "other", "--files", str(files))
    assert (code, f"{files}/current exists" in said) == (1, True)


def test_again(daemon: Daemon, tmp_path: Path) -> None:
    """With a token that is used up nothing changes; with a good one the anchors are those of the daemon, only this once."""
    file = tmp_path / "a" / "node.toml"
    init(daemon, file, "again")
    allow(daemon, "root", "again")
    assert run(hsmd("node", "renew", "--config", file)).returncode == 0
    before = content(file.parent)
    code, said = init_with(tmp_path / "again.token", file, "--again", authority="second")
    assert (code, "does not accept the token" in said) == (1, True)
    assert content(file.parent) == before
    code, said = init(daemon, file, "again", "--again", authority="second")
    assert (code, anchors(file)) == (4, ["CN=Example root"]), "it is not allowed yet"
    allow(daemon, "second", "again")
    assert run(hsmd("node", "renew", "--config", file)).returncode == 0
    assert anchors(file) == ["CN=Example second"]
    assert not state.read(file.parent / "node-state").anew
    assert (file.parent / "node.toml.before").read_bytes() == before["node.toml"]
    assert (file.parent / "node_ed25519.before").read_bytes() == before["node_ed25519"]
