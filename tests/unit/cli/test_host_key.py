"""`hsmd host-key`: a new host key in steps, and files in which nothing but the pins changes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hsmd.agent import config as agent_config
from hsmd.cli.base import agent_toml, profile, ssh_keys
from tests.support.cli import Run


@pytest.fixture
def daemon(run: Run, home: Path) -> Path:
    """The configuration of a daemon."""
    (home / "module.so").touch()
    (home / "pin").write_text("1234\n")
    (home / "pin").chmod(0o600)
    as_root = ("--run-as-root",) if os.geteuid() == 0 else ()
    ran = run(
        "init",
        "--module",
        "module.so",
        "--token-label",
        "t",
        "--pin-file",
        "pin",
        "--no-token-test",
        *as_root,
    )
    assert ran.code == 0, ran.err
    return home / "hsmd.toml"


def test_the_host_key_is_replaced_in_steps(run: Run, home: Path, daemon: Path) -> None:
    old = ssh_keys.read(home / "host_ed25519.pub")
    ran = run("host-key", "new", "--config", str(daemon))
    line = ran.out.strip()
    assert ssh_keys.parse(line).line == line != old.line
    assert f"hsmd host-key pin '{line}' --beside '{old.line}'" in ran.err
    assert ssh_keys.read(home / "host_ed25519.pub") == old, "the daemon does not use it yet"
    assert run("host-key", "new", "--config", str(daemon)).code == 1, "one at a time"
    mine = home / ".config" / "hsmd" / "operator.toml"
    assert run("host-key", "pin", line, "--beside", old.line).code == 0
    assert profile.load(mine).host_keys == (old.line, line)
    assert "nothing was changed" in run("host-key", "pin", line, "--beside", old.line).out
    ran = run("host-key", "switch", "--config", str(daemon))
    assert ran.code == 0, ran.err
    assert "systemctl reload hsmd" in ran.err
    assert ssh_keys.read(home / "host_ed25519.pub").line == line
    assert stat.S_IMODE((home / "host_ed25519").stat().st_mode) == 0o600
    assert ssh_keys.read(home / "host_ed25519.old.pub") == old
    assert not list(home.glob("*.next*"))
    assert run("host-key", "unpin", old.line).code == 0
    assert profile.load(mine).host_keys == (line,)
    ran = run("host-key", "unpin", line)
    assert (ran.code, "no other host key" in ran.err) == (1, True)
    assert profile.load(mine).host_keys == (line,)


def test_root_works_as_the_user_whose_directory_has_the_key(run: Run, home: Path, daemon: Path) -> None:
    """The front process's user may put links there, and may be under an attacker's control."""
    owner = 4_242 if os.geteuid() == 0 else os.geteuid()
    for directory in home.parents:
        if directory.stat().st_uid == os.geteuid() and directory not in (Path("/tmp"), Path("/")):
            directory.chmod(directory.stat().st_mode | 0o011)
    for path in (home, home / "host_ed25519", home / "host_ed25519.pub"):
        os.chown(path, owner, -1)
    assert run("host-key", "new", "--config", str(daemon)).code == 0
    assert (home / "host_ed25519.next").stat().st_uid == owner
    ran = run("host-key", "switch", "--config", str(daemon))
    assert (ran.code, (home / "host_ed25519").stat().st_uid) == (0, owner), ran.err


def test_switching_needs_a_next_key(run: Run, home: Path, daemon: Path) -> None:
    ran = run("host-key", "switch", "--config", str(daemon))
    assert (ran.code, "hsmd host-key new" in ran.err) == (2, True)


def test_only_the_pins_of_agents_change(run: Run, home: Path, tmp_path: Path) -> None:
    """Of two daemons only the one with this key gets the next one; comments and all other settings stay."""
    first, second, following = (ssh_keys.make(tmp_path / name, name).line for name in "abc")
    local = agent_toml.Local(Path("/run/hsmd/agent.sock"), Path("/var/lib/hsmd-agent"), ("root",))
    pinned = agent_toml.Pinned("10.9.0.1:7440", (first,), "web1", Path("/etc/hsmd/agent_ed25519"))
    file = tmp_path / "agent.toml"
    more = f'\n[[daemon]]\naddress = "10.9.0.3:7440"\nhost_keys = [  # of east\n    "{second}",\n]\n'
    before = agent_toml.render(local, pinned) + more
    file.write_text(before)
    file.chmod(0o640)
    ran = run("host-key", "pin", following, "--beside", second, "--file", str(file))
    assert ran.code == 0, ran.err
    assert "systemctl reload hsmd-agent" in ran.err
    daemons = agent_config.load(file).daemons
    assert [daemon.host_keys for daemon in daemons] == [(first,), (second, following)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert file.read_text().startswith(before.partition('\n[[daemon]]\naddress = "10.9.0.3')[0])
    ran = run(
        "host-key", "pin", following, "--beside", ssh_keys.make(tmp_path / "d", "d").line, "--file", str(file)
    )
    assert (ran.code, "does not pin" in ran.err) == (1, True)


def test_without_files_the_command_asks_for_one(run: Run, home: Path, tmp_path: Path) -> None:
    line = ssh_keys.make(tmp_path / "a", "a").line
    ran = run("host-key", "unpin", line)
    assert (ran.code, "--file" in ran.err) == (2, True)
