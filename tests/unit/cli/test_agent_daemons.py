"""`hsmd agent daemon`, and setting up a host again: what changes in agent.toml, and that nothing else does."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from hsmd.agent.config import load
from hsmd.cli.agent import re_enrolment
from hsmd.cli.base.agent_toml_edit import AgentToml, set_in_section
from tests.support.cli import Run
from tests.support.renewals import is_root

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "B" * 42 + "A"
FIRST, SECOND = "10.9.0.1:7440", "10.9.0.3:7440"


@pytest.fixture
def config(run: Run, tmp_path: Path) -> Path:
    """As `agent init` makes it, and as a person has changed it then."""
    path = tmp_path / "agent" / "agent.toml"
    made = run(
        "agent", "init", "--daemon", FIRST, "--host-key", HOST_KEY, "--client", "web1", "--allow", "nobody",
        "--config", str(path), "--socket", str(tmp_path / "a.sock"),
    )  # fmt: skip
    assert made.code == 0, made.err
    text = path.read_text().replace('mode = "0660"', 'mode = "0600"  # ours')
    path.write_text(text + '\n# Kept.\n[keys.www]\nusers = [\n    "nobody",\n]\n')
    return path


def addresses(config: Path) -> list[str]:
    return [daemon.address for daemon in load(config).daemons]


def test_a_daemon_is_added_and_removed_and_all_else_stays(run: Run, config: Path) -> None:
    before = config.read_text()
    config.chmod(0o640)
    added = run("agent", "daemon", "add", SECOND, "--host-key", OTHER_KEY, "--config", str(config))
    assert added.code == 0, added.err
    assert addresses(config) == [FIRST, SECOND]
    assert load(config).daemons[1].host_keys == (OTHER_KEY,)
    assert config.read_text().startswith(before)
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert "systemctl reload hsmd-agent" in added.err
    removed = run("agent", "daemon", "remove", SECOND, "--config", str(config), "--json")
    assert removed.code == 0
    assert config.read_text() == before


def test_the_first_daemon_can_be_removed(run: Run, config: Path) -> None:
    run("agent", "daemon", "add", SECOND, "--host-key", OTHER_KEY, "--config", str(config))
    assert run("agent", "daemon", "remove", FIRST, "--config", str(config)).code == 0
    assert addresses(config) == [SECOND]
    text = config.read_text()
    assert "# Kept." in text and "[keys.www]" in text and FIRST not in text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("remove", FIRST), "is the only daemon of this agent"),
        (("remove", "10.9.0.9:1"), "names no daemon 10.9.0.9:1"),
        (("add", FIRST, "--host-key", HOST_KEY), "names the daemon 10.9.0.1:7440 already"),
        (("add", SECOND), "give the address and --host-key"),
        (("add",), "give the address and --host-key"),
        (("add", SECOND, "--host-key", "no key"), "host_keys"),
        (("add", "no address", "--host-key", HOST_KEY), "no address"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    run: Run, config: Path, words: tuple[str, ...], complaint: str
) -> None:
    before = config.read_text()
    ran = run("agent", "daemon", *words, "--config", str(config))
    assert ran.code == 2
    assert complaint in ran.err
    assert config.read_text() == before


def test_a_host_that_is_set_up_is_set_up_again_only_on_request(run: Run, config: Path) -> None:
    before = config.read_text()
    ran = run(
        "agent",
        "init",
        "--daemon",
        SECOND,
        "--host-key",
        OTHER_KEY,
        "--client",
        "web2",
        "--config",
        str(config),
    )
    assert ran.code == 1
    assert "this host is set up as client web1 of 10.9.0.1:7440" in ran.err
    assert "--again" in ran.err
    assert config.read_text() == before


def test_setting_up_again_keeps_the_settings_and_the_files_of_before(run: Run, config: Path) -> None:
    identity = config.parent / "agent_ed25519"
    old_text, old_key = config.read_text(), identity.read_bytes()
    config.write_text(old_text.replace("operator_keys = []", "operator_keys = [\n]"))
    old_text = config.read_text()
    if is_root():
        os.chown(config, 1, 1)
        os.chown(identity, 1, 1)
    ran = run(
        "agent", "init", "--again", "--daemon", SECOND, "--host-key", OTHER_KEY, "--client", "web2",
        "--config", str(config),
    )  # fmt: skip
    assert ran.code == 0, ran.err
    was, now = tomllib.loads(old_text), tomllib.loads(config.read_text())
    changed = {"client": "web2"}
    assert now["agent"] == was["agent"] | changed
    assert {name: now[name] for name in ("defaults", "keys", "metrics")} == {
        name: was[name] for name in ("defaults", "keys", "metrics")
    }
    assert now["daemon"] == [{"address": SECOND, "host_keys": [OTHER_KEY]}]
    assert identity.read_bytes() != old_key
    assert (config.parent / "agent.toml.before-1").read_text() == old_text
    assert (config.parent / "agent_ed25519.before-1").read_bytes() == old_key
    assert (config.parent / "agent_ed25519.pub.before-1").exists()
    assert stat.S_IMODE(identity.stat().st_mode) == 0o600
    if is_root():
        assert (config.stat().st_uid, identity.stat().st_uid) == (1, 1)
    assert "systemctl restart hsmd-agent" in ran.err
    again = run(
        "agent", "init", "--again", "--daemon", FIRST, "--host-key", HOST_KEY, "--client", "web1",
        "--config", str(config), "--allow", "root", "--json",
    )  # fmt: skip
    assert again.code == 0, again.err
    assert (config.parent / "agent.toml.before-2").exists()
    assert tomllib.loads(config.read_text())["defaults"]["users"] == ["root"]


def test_an_answer_of_no_changes_nothing(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = config.read_text()
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(re_enrolment, "sys", terminal)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    ran = run(
        "agent",
        "init",
        "--daemon",
        SECOND,
        "--host-key",
        OTHER_KEY,
        "--client",
        "web2",
        "--config",
        str(config),
    )
    assert "nothing was changed" in ran.err
    assert config.read_text() == before


def test_next_steps_fit_the_options(run: Run, tmp_path: Path) -> None:
    base = (
        "agent",
        "init",
        "--daemon",
        FIRST,
        "--host-key",
        HOST_KEY,
        "--client",
        "web1",
        "--allow",
        "nobody",
    )
    plain = run(*base, "--config", str(tmp_path / "a" / "agent.toml"))
    assert f"hsmd agent run --config {tmp_path}/a/agent.toml" in plain.err
    assert "systemd" not in plain.err
    if is_root():
        owned = run(*base, "--config", str(tmp_path / "b" / "agent.toml"), "--owner", "nobody")
        assert "hsmd agent install systemd --user nobody" in owned.err
        assert "hsmd agent run" not in owned.err


def test_a_value_over_several_lines_is_replaced_whole() -> None:
    text = '[agent]\nkeys = [\n  "a",  # one\n  "b",\n]\nnext = 1\n[other]\nkeys = 2\n'
    assert set_in_section(text, "agent", "keys", "[]") == "[agent]\nkeys = []\nnext = 1\n[other]\nkeys = 2\n"
    assert tomllib.loads(set_in_section(text, "new", "x", "1"))["new"] == {"x": 1}
    assert set_in_section(text, "agent", "added", "1").splitlines()[1] == "added = 1"


def test_a_section_that_looks_like_a_daemon_in_a_comment_stays(config: Path) -> None:
    toml = AgentToml.read(config).with_daemon(SECOND, [OTHER_KEY])
    text = toml.text.replace("# Kept.", "# Kept. [[daemon]]\n#[[daemon]]")
    changed = AgentToml(config, text).without_daemon(SECOND)
    assert "#[[daemon]]" in changed.text
