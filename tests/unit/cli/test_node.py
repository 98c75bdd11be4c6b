"""`hsmd node`: what it shows of a node that is well, degraded or failing, and what it refuses."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hsmd.algorithms import KeyType
from hsmd.cli.base.agent_toml import Pinned
from hsmd.cli.node.init import _wanted
from hsmd.cli.node.node_toml import Wanted, render
from hsmd.deployment.version_directories import Access
from hsmd.node import documents, state
from hsmd.node.config import parse
from hsmd.node.documents import Kept
from hsmd.node.keys import AgentKeys, FileKeys, TokenKeys
from hsmd.node.programs import PROGRAMS
from hsmd.node.state import NodeState, ProbeState
from hsmd.node.tls_keys import TlsKey
from hsmd.protocol.enrolment import ID_BYTES, SECRET_BYTES, EnrolmentToken
from tests.support.cli import Run
from tests.support.node_authority import Clock, NodeAuthority
from tests.support.node_files import HOST_KEY, node_toml


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(node_toml(tmp_path))
    (tmp_path / "state").mkdir()
    return path


def fill(directory: Path, left: timedelta = timedelta(hours=1), **told: object) -> None:
    """A certificate that ends so long from now, and a state."""
    (directory / "files").mkdir()
    authority = NodeAuthority(
        Clock(datetime.now(UTC).replace(microsecond=0)), term=left + timedelta(minutes=5)
    )
    key = TlsKey.generate(KeyType.P256)
    leaf = authority.issue(load_pem_private_key(key.pem, None).public_key())
    kept = Kept(key, (leaf,), tuple(authority.anchors), (authority.list(),))
    documents.write(directory / "files", kept.files(PROGRAMS["haproxy"]), Access())
    state.write(directory / "state", NodeState(passed_at=datetime.now(UTC), daemon="192.0.2.1:7440", **told))  # type: ignore[arg-type]


def test_a_node_that_is_well(run: Run, file: Path) -> None:
    fill(file.parent, probes=(ProbeState("www.example.com at 192.0.2.7:443"),))
    ran = run("node", "status", "--config", str(file))
    assert ran.code == 0, ran.err
    assert ran.out.startswith("The node is well.")
    for text in (
        "web1, for haproxy, from root",
        "CN=Example CA 1",
        "0 revoked",
        "www.example.com at 192.0.2.7:443  ok",
    ):
        assert text in ran.out


@pytest.mark.parametrize(
    ("told", "code", "level"),
    [
        ({"daemon_error": "no daemon answers"}, 5, "degraded"),
        ({"reload_error": "nginx: exit code 1"}, 5, "degraded"),
        ({"next_at": datetime.now(UTC) - timedelta(minutes=16)}, 5, "degraded"),
        ({"probes": (ProbeState("www", "Connection refused"),)}, 4, "failing"),
    ],
)
def test_problems_and_exit_codes(
    run: Run, file: Path, told: dict[str, object], code: int, level: str
) -> None:
    fill(file.parent, **told)
    ran = run("node", "status", "--config", str(file), "--json")
    document = json.loads(ran.out)
    assert (ran.code, document["level"]) == (code, level)
    assert len(document["problems"]) == 1


def test_a_certificate_that_has_ended_is_a_failure(run: Run, file: Path) -> None:
    fill(file.parent, left=timedelta(seconds=-1))
    assert run("node", "status", "--config", str(file)).code == 4


def test_a_node_without_a_certificate(run: Run, file: Path) -> None:
    ran = run("node", "status", "--config", str(file))
    assert (ran.code, "(none yet)" in ran.out) == (4, True)
    ran = run("node", "check", "--config", str(file))
    assert "There is nothing to try" in ran.err


def test_no_private_key_is_shown(run: Run, file: Path) -> None:
    fill(file.parent)
    secret = (file.parent / "files" / "current" / "key.pem").read_text().splitlines()[1]
    for arguments in (["status"], ["status", "--json"], ["check", "--json"]):
        ran = run("node", *arguments, "--config", str(file))
        assert secret not in ran.out + ran.err


def test_files_that_cannot_be_read_are_told(run: Run, file: Path) -> None:
    fill(file.parent)
    (file.parent / "files" / "current" / "key.pem").write_text("x")
    ran = run("node", "status", "--config", str(file))
    assert (ran.code, "the private key file is damaged; make the files anew" in ran.out) == (4, True)
    ran = run("node", "check", "--config", str(file))
    assert (ran.code, "the private key file is damaged - make the files anew" in ran.err) == (4, True)


@pytest.mark.parametrize(
    "content",
    [b"{}", b"x" * 3_000_000, b'{"passed_at": "2027-03-01T12:00:00", "next_at": "2027-03-01T12:00:00"}'],
)
def test_a_state_that_is_lost_or_damaged_is_no_success(run: Run, file: Path, content: bytes) -> None:
    fill(file.parent)
    (file.parent / "state" / "state.json").write_bytes(content)
    ran = run("node", "status", "--config", str(file))
    assert (ran.code, "no pass was made" in ran.out) == (5, True), ran.err


def test_a_pipe_in_place_of_the_state_is_no_state(run: Run, file: Path) -> None:
    fill(file.parent)
    (file.parent / "state" / "state.json").unlink()
    os.mkfifo(file.parent / "state" / "state.json")
    assert run("node", "status", "--config", str(file)).code == 5


def test_nodes_of_one_host_have_files_of_their_own() -> None:
    def wanted(file: str) -> Wanted:
        return _wanted(Path(file), "root", "nginx", [], None, "", "", "", "")

    assert wanted("/etc/hsmd/node.toml").files == Path("/etc/hsmd-node")
    assert wanted("/etc/hsmd/node.toml").state == Path("/var/lib/hsmd-node")
    assert wanted("/etc/hsmd/mail.toml").files == Path("/etc/hsmd-node-mail")
    assert wanted("/etc/hsmd/mail.toml").state == Path("/var/lib/hsmd-node-mail")
    assert wanted("/srv/mail.toml").files == Path("/srv/mail-files")


def test_a_missing_configuration_says_how_it_is_made(run: Run, tmp_path: Path) -> None:
    ran = run("node", "status", "--config", str(tmp_path / "node.toml"))
    assert (ran.code, "hsmd node init" in ran.err) == (2, True)


def test_a_program_that_is_not_known(run: Run, tmp_path: Path) -> None:
    ran = run(
        "node",
        "init",
        "--enroll",
        "x",
        "--authority",
        "root",
        "--program",
        "exim",
        "--config",
        str(tmp_path / "node.toml"),
    )
    assert (ran.code, "choose one of nginx" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({}, FileKeys(KeyType.P256)),
        ({"token": "/etc/hsmd/token.toml", "label": "web1"}, TokenKeys(Path("/etc/hsmd/token.toml"), "web1")),
        ({"served": "www"}, AgentKeys(Path("/run/hsmd/agent.sock"), "www")),
    ],
)
def test_a_new_configuration_is_read_as_it_was_meant(given: dict[str, str], keys: object) -> None:
    wanted = Wanted(
        "root", "nginx", Path("/s"), Path("/f"), command=("/bin/true", 'a "b"'), probes=[("192.0.2.1:443", "www.example.com")],
        **given,
    )  # fmt: skip
    config = parse(render(wanted, Pinned("192.0.2.9:7440", (HOST_KEY,), "web1", Path("/i"))))
    assert (config.keys, config.client, config.authority) == (keys, "web1", "root")
    assert config.server.command == ("/bin/true", 'a "b"')
    assert [each.text for each in config.probes] == ["www.example.com at 192.0.2.1:443"]


def test_a_key_is_in_one_place(run: Run, tmp_path: Path) -> None:
    init = (
        "node",
        "init",
        "--enroll",
        "x",
        "--authority",
        "root",
        "--program",
        "nginx",
        "--config",
        str(tmp_path / "n"),
    )
    for options in (["--token", "a", "--agent-key", "b"], ["--label", "a"]):
        ran = run(*init, *options)
        assert (ran.code, "exclude each other" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--owner", "nobody-here"), "--owner: this host has no user 'nobody-here'"),
        (("--reload", "nginx -s 'reload"), "--reload: a quotation mark is not closed"),
        (("--reload", "nginx -s reload"), "--reload: must begin with the absolute path"),
        (("--probe", "a:b:c"), "--probe: 'a:b:c' is not an address"),
        (("--authority", "a b"), "--authority: 'a b' is not a name"),
    ],
)
def test_a_wrong_option_is_named_before_the_token_is_used(
    run: Run, tmp_path: Path, options: tuple[str, str], said: str
) -> None:
    token = tmp_path / "token"
    token.write_text(
        EnrolmentToken(bytes(ID_BYTES), bytes(SECRET_BYTES), bytes(32), False, "127.0.0.1:1").text()
    )
    file = tmp_path / "a" / "node.toml"
    words = ("--enroll", str(token), "--authority", "root", "--program", "nginx", "--config", str(file))
    ran = run("node", "init", *words, *options)
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert "node.toml" not in ran.err
    assert not file.parent.exists()


def test_directories_that_cannot_be_used_are_told_before_the_token_is_used(run: Run, tmp_path: Path) -> None:
    token, blocked = tmp_path / "token", tmp_path / "blocked"
    token.write_text(
        EnrolmentToken(bytes(ID_BYTES), bytes(SECRET_BYTES), bytes(32), False, "127.0.0.1:1").text()
    )
    blocked.write_text("")
    file = tmp_path / "a" / "node.toml"
    words = ("--enroll", str(token), "--authority", "root", "--program", "nginx", "--config", str(file))
    ran = run("node", "init", *words, "--files", str(blocked / "files"))
    assert (ran.code != 0, str(blocked) in ran.err) == (True, True)
    assert "127.0.0.1:1" not in ran.err, "no daemon was asked"
    assert not file.parent.exists()


def test_the_unit_names_what_the_service_writes(run: Run, file: Path) -> None:
    ran = run("node", "install", "--print", "--config", str(file))
    assert ran.code == 0, ran.err
    assert "# ---- /etc/systemd/system/hsmd-node.service" in ran.out
    assert f"node run --config {file}" in ran.out
    assert f"ReadWritePaths=-{file.parent}/state -{file.parent}/files" in ran.out
    other = file.rename(file.with_name("mail.toml"))
    assert "hsmd-node-mail.service" in run("node", "install", "--print", "--config", str(other)).out


def test_a_unit_is_written_below_a_root(run: Run, file: Path, tmp_path: Path) -> None:
    ran = run("node", "install", "--root", str(tmp_path / "image"), "--config", str(file))
    assert ran.code == 0, ran.err
    assert (tmp_path / "image/etc/systemd/system/hsmd-node.service").is_file()
