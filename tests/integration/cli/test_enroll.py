"""`hsmd client enroll`, `hsmd agent init --enroll` and `hsmd enroll` against a real daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hsmd.agent.config import load
from hsmd.cli.base import ssh_keys
from hsmd.cli.base.enrolment import register
from hsmd.cli.base.errors import CommandError
from hsmd.client import Client
from hsmd.protocol.enrolment import EnrolmentToken
from hsmd.protocol.messages import WhoAmI
from tests.support.daemon import OPERATOR, Daemon, public_line, running_daemon

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("enroll") / "daemon") as built:
        built.add_key("site", grant_to=())
        yield built


def hsmd(
    daemon: Daemon, *arguments: str, given: str = "", manage: bool = False
) -> subprocess.CompletedProcess[str]:
    target = (
        [
            "--daemon",
            ":".join(map(str, daemon.address)),
            "--user",
            OPERATOR,
            "--identity",
            str(daemon.directory / OPERATOR),
            "--host-key",
            daemon.notice["host_key"],
            "--profile",
            str(profile(daemon)),
        ]
        if manage
        else []
    )
    return subprocess.run(
        [sys.executable, "-m", "hsmd.cli", *arguments, *target],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )


def profile(daemon: Daemon) -> Path:
    path = daemon.directory / "profile" / "operator.toml"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


def token(daemon: Daemon, *arguments: str) -> str:
    made = hsmd(daemon, "client", "enroll", *arguments, "--json", manage=True)
    assert made.returncode == 0, made.stderr
    return str(json.loads(made.stdout)["token"])


def test_a_front_end_enrols_with_a_token(daemon: Daemon, tmp_path: Path) -> None:
    line = token(daemon, "web-9", "--grant", "site")
    config = tmp_path / "agent" / "agent.toml"
    options = ("--config", str(config), "--socket", str(tmp_path / "agent.sock"))
    made = hsmd(daemon, "agent", "init", "--enroll", "-", *options, "--json", given=line + "\n")
    assert made.returncode == 0, made.stderr
    assert line not in made.stdout + made.stderr
    load(config)
    text = tomllib.loads(config.read_text())
    assert text["agent"]["client"] == "web-9"
    assert text["daemon"][0]["host_keys"] == [daemon.notice["host_key"]]
    assert public_line(daemon.keys[OPERATOR]) in text["agent"]["operator_keys"]
    again = hsmd(
        daemon,
        "agent",
        "init",
        "--enroll",
        "-",
        "--config",
        str(tmp_path / "b" / "c" / "agent.toml"),
        given=line,
    )
    assert again.returncode == 1
    assert "wrong, used, or older" in again.stderr
    assert not (tmp_path / "b").exists(), "a failed try leaves no files and no directories"


def test_a_front_end_enrols_again(daemon: Daemon, tmp_path: Path) -> None:
    """Its settings stay; the key of before works no longer at the daemon, which is told the new one."""
    config = tmp_path / "agent" / "agent.toml"
    options = ("agent", "init", "--enroll", "-", "--config", str(config))
    first = hsmd(
        daemon, *options, "--socket", str(tmp_path / "a.sock"), "--json", given=token(daemon, "web-12") + "\n"
    )
    assert first.returncode == 0, first.stderr
    line = token(daemon, "web-12")
    refused = hsmd(daemon, *options, given=line + "\n")
    assert refused.returncode == 1
    assert "--again" in refused.stderr
    again = hsmd(daemon, *options, "--again", "--json", given=line + "\n")
    assert again.returncode == 0, again.stderr
    made, was = json.loads(again.stdout), json.loads(first.stdout)
    assert (made["socket"], made["client"]) == (was["socket"], "web-12")
    assert made["public_key"] != was["public_key"]
    with Client.connect(load(config).daemons[0]) as client:
        assert client.control(WhoAmI(), timeout_s=10).client == "web-12"


def test_a_daemon_is_added_with_a_token_of_it(daemon: Daemon, tmp_path: Path) -> None:
    """The agent of another daemon registers the key that it has, under its own name only."""
    config = tmp_path / "agent" / "agent.toml"
    for name in ("web-13", "web-14"):
        made = hsmd(
            daemon, "agent", "init", "--daemon", "192.0.2.1:7440", "--host-key", daemon.notice["host_key"],
            "--client", "web-13", "--config", str(config), "--again",
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        line = token(daemon, name)
        added = hsmd(
            daemon, "agent", "daemon", "add", "--enroll", "-", "--config", str(config), given=line + "\n"
        )
        if name == "web-14":
            assert added.returncode == 1
            assert "the token is for the client web-14, and this agent is web-13" in added.stderr
            continue
        assert added.returncode == 0, added.stderr
        (_, second) = load(config).daemons
        assert (
            public_line(daemon.keys[OPERATOR]) in tomllib.loads(config.read_text())["agent"]["operator_keys"]
        )
        with Client.connect(second) as client:
            assert client.control(WhoAmI(), timeout_s=10).client == "web-13"


@pytest.mark.parametrize(
    "wrong", [["--owner", "no-such-user-here"], ["--socket", "/" + "x" * 120]], ids=lambda each: each[0]
)
def test_a_mistake_on_the_command_line_does_not_use_up_the_token(
    daemon: Daemon, tmp_path: Path, wrong: list[str]
) -> None:
    line = token(daemon, "web-10")
    options = ("agent", "init", "--enroll", "-", "--config", str(tmp_path / "agent" / "agent.toml"))
    assert hsmd(daemon, *options, *wrong, given=line + "\n").returncode in (1, 2)
    made = hsmd(daemon, *options, "--socket", str(tmp_path / "agent.sock"), given=line + "\n")
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize("address", ["10.9.0.1:99999", "not an address", "10.9.0.1:"])
def test_a_token_needs_a_valid_address(daemon: Daemon, address: str) -> None:
    made = hsmd(daemon, "client", "enroll", "web-11", "--address", address, "--json", manage=True)
    assert made.returncode != 0
    assert "is not an address" in made.stderr
    assert "hsmd-enroll:" not in made.stdout


def test_of_two_concurrent_enrolments_neither_loses_a_key(tmp_path: Path) -> None:
    """The second run finds the file of the first when it creates its own."""
    identity = tmp_path / "agent_ed25519"
    ssh_keys.make(identity, "of the first run")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    nowhere = EnrolmentToken(b"i" * 8, b"s" * 16, b"p" * 32, False, "127.0.0.1:1")
    with pytest.raises(CommandError), ExitStack() as undo:
        register(nowhere, identity, undo)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_operator_enrols_with_a_token(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token(daemon, "bob", "--role", "operator"))
    written = tmp_path / "conf" / "operator.toml"
    made = hsmd(daemon, "enroll", str(file), "--profile", str(written))
    assert made.returncode == 0, made.stderr
    # So that a break of the log that another operator declares stops neither.
    assert public_line(daemon.keys[OPERATOR]) in tomllib.loads(written.read_text())["operator_keys"]
    listed = hsmd(daemon, "client", "list", "--profile", str(written), "--json")
    assert listed.returncode == 0, listed.stderr
    assert "bob" in [client["name"] for client in json.loads(listed.stdout)["clients"]]
    used = hsmd(daemon, "enroll", str(file), "--profile", str(tmp_path / "b" / "c" / "operator.toml"))
    assert used.returncode == 1
    assert "wrong, used, or older" in used.stderr
    assert not (tmp_path / "b").exists(), "a failed try leaves no files and no directories"


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (("--enroll", "hsmd-enroll:v1:AAAA"), "", "visible to other users of this host"),
        (("--enroll", "-"), "hsmd-enroll:v1:AAAA", "copy the whole line"),
        (("--enroll", "-"), "", "begins with"),
        (("--enroll", "-", "--client", "x"), "", "cannot be combined with --enroll"),
        ((), "", "--daemon, --client, --host-key not given"),
    ],
)
def test_wrong_use_is_explained(
    daemon: Daemon, tmp_path: Path, arguments: tuple[str, ...], given: str, message: str
) -> None:
    made = hsmd(daemon, "agent", "init", "--config", str(tmp_path / "agent.toml"), *arguments, given=given)
    assert made.returncode == 2, made.stderr
    assert message in made.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_token_for_a_node_says_where_it_is_used(daemon: Daemon) -> None:
    made = hsmd(daemon, "client", "enroll", "web7", "--role", "node", manage=True)
    assert "run `hsmd node init --enroll -` on the other host" in made.stderr


def test_a_client_with_several_roles_enrols_and_has_all_of_them(daemon: Daemon, tmp_path: Path) -> None:
    made = hsmd(daemon, "client", "enroll", "olga", "--role", "checker", "--role", "owner", manage=True)
    assert "run `hsmd enroll -` on the other host" in made.stderr
    mine = tmp_path / "olga.toml"
    done = hsmd(daemon, "enroll", "-", "--profile", str(mine), "--json", given=made.stdout)
    document = json.loads(done.stdout)
    assert (document["role"], document["roles"]) == ("owner", ["owner", "checker"])
    shown = hsmd(daemon, "status", "--profile", str(mine))
    assert "olga (owner, checker)" in shown.stdout
    assert "not available to the roles owner, checker" in shown.stdout
    refused = hsmd(daemon, "client", "list", "--profile", str(mine))
    assert refused.returncode == 1 and "identity and roles" in refused.stderr
