"""`hsmd agent rotate-key` with a real daemon: it resumes after an interruption at each step, and only the new key remains."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from hsmd.cli.base import key_rotation, ssh_keys
from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.profile import Profile, render
from hsmd.client import Endpoint
from hsmd.daemon.store import Store
from hsmd.errors import BadRequest, Conflict, Refused, Unavailable
from hsmd.protocol import key_proofs, messages
from tests.support.cli import Run
from tests.support.daemon import AUDITOR, MAIL, OPERATOR, WEB, Daemon, public_line, running_daemon

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running_daemon(tmp_path_factory.mktemp("rotate") / "daemon") as built:
        yield built


@pytest.fixture
def agent(daemon: Daemon, tmp_path: Path, request: pytest.FixtureRequest) -> Endpoint:
    """A client with its own key."""
    name = f"agent-{abs(hash(request.node.name)) % 10**8}"
    identity = tmp_path / "agent_ed25519"
    key = ssh_keys.make(identity, "first")
    daemon.ask(messages.ClientAdd(name, "front-end", key.line))
    return daemon.endpoint(name, identity_file=identity)


def keys_of(daemon: Daemon, name: str) -> list[str]:
    clients = daemon.ask(messages.ClientList()).clients
    return next(client.fingerprints for client in clients if client.name == name)


def rotate(agent: Endpoint) -> str:
    key_rotation._rotate(
        (agent,), agent.identity_file, agent.identity_file.with_name("agent_ed25519.next"), "hsmd agent"
    )
    return ssh_keys.read(ssh_keys.public_file(agent.identity_file)).fingerprint


def test_the_new_key_replaces_the_old_one(daemon: Daemon, agent: Endpoint) -> None:
    before = keys_of(daemon, agent.user)
    after = rotate(agent)
    assert keys_of(daemon, agent.user) == [after] != before
    assert rotate(agent) != after
    assert len(keys_of(daemon, agent.user)) == 1


@pytest.mark.parametrize("step", range(8))
def test_a_rotation_continues_after_a_crash(
    daemon: Daemon, agent: Endpoint, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rotation crashes before and after each request, and after each change of a file."""
    left = [step]

    def crashing(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                raise KeyboardInterrupt
            return inner(*arguments)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(key_rotation, "_ask", crashing(key_rotation._ask))
        patched.setattr(key_rotation.os, "replace", crashing(key_rotation.os.replace))
        patched.setattr(ssh_keys, "make", crashing(ssh_keys.make))
        if step < 7:
            with pytest.raises(KeyboardInterrupt):
                rotate(agent)
        else:
            rotate(agent)
    key_rotation._ask(agent, messages.WhoAmI())
    after = rotate(agent)
    assert keys_of(daemon, agent.user) == [after]
    key_rotation._ask(agent, messages.WhoAmI())


def rotation(daemon: Daemon, client: str, key: Any, *, of: str = "", replaces: Any = None) -> Any:
    """The request to make `key` the next one of `client`; the proof may be for another client or another current key."""
    current = (replaces or daemon.keys[client]).get_fingerprint()
    statement = key_proofs.rotation_statement(of or client, current, key.get_fingerprint())
    proof = base64.b64encode(
        key.sign(statement, b"rsa-sha2-256" if key.algorithm == b"ssh-rsa" else key.algorithm)
    ).decode()
    return messages.ClientRotateKey(public_line(key), proof)


def test_a_client_can_add_one_key_and_only_to_itself(daemon: Daemon) -> None:
    first, second, rsa = (
        asyncssh.generate_private_key(kind) for kind in ("ssh-ed25519", "ssh-ed25519", "ssh-rsa")
    )
    with pytest.raises(BadRequest):
        daemon.ask(messages.ClientRotateKey("nonsense"), WEB)
    assert daemon.ask(rotation(daemon, WEB, first), WEB).changed
    assert not daemon.ask(rotation(daemon, WEB, first), WEB).changed
    for other in (second, rsa):
        with pytest.raises(Conflict, match="has a next key already"):
            daemon.ask(rotation(daemon, WEB, other), WEB)
    assert not daemon.ask(messages.ClientRotateKey(), WEB).changed, "the old key cannot finish the rotation"
    assert len(keys_of(daemon, WEB)) == 2
    assert [record for record in daemon.audit("control.done") if "client.rotate-key" in json.dumps(record)]


def test_a_rotation_that_changes_nothing_is_neither_recorded_nor_a_new_version(daemon: Daemon) -> None:
    """Each record is synced, and each version makes every daemon read its contents again."""

    def records() -> int:
        return len([each for each in daemon.audit() if "client.rotate-key" in json.dumps(each)])

    before, store = records(), Store(daemon.store_url)
    version = store.version()
    for _ in range(3):
        assert not daemon.ask(messages.ClientRotateKey(), MAIL).changed
        with pytest.raises(BadRequest):
            daemon.ask(messages.ClientRotateKey("nonsense"), MAIL)
    assert (records(), store.version()) == (before, version)
    assert daemon.ask(rotation(daemon, MAIL, asyncssh.generate_private_key("ssh-ed25519")), MAIL).changed
    assert (records(), store.version()) == (before + 2, version + 1)
    store.close()


def test_a_client_learns_nothing_about_the_keys_of_others_and_takes_none(daemon: Daemon) -> None:
    """Without the private key, a key of another client and one that no client has are refused alike."""
    taken, free = daemon.keys[OPERATOR], asyncssh.generate_private_key("ssh-ed25519")
    texts = set()
    for key in (taken, free):
        line = public_line(key)
        elsewhere = rotation(daemon, AUDITOR, key, of=WEB).proof
        replayed = rotation(daemon, AUDITOR, key, replaces=free).proof
        by_another = rotation(daemon, AUDITOR, asyncssh.generate_private_key("ssh-ed25519")).proof
        for proof in ("", "!", "AAAA", elsewhere, replayed, by_another):
            with pytest.raises(BadRequest) as caught:
                daemon.ask(messages.ClientRotateKey(line, proof), AUDITOR)
            texts.add((bool(proof), caught.value.text))
    assert len(texts) == 2, "one text without a proof, and one for all that prove nothing"
    with pytest.raises(BadRequest, match="in use or was revoked") as caught:
        daemon.ask(rotation(daemon, AUDITOR, taken), AUDITOR)
    assert OPERATOR not in caught.value.text
    daemon.ask(messages.ClientAdd("owner-of-free", "front-end", public_line(free)))


def test_a_daemon_of_an_earlier_release_gets_no_proof(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    def ask(daemon: Any, request: Any) -> None:
        asked.append(request)
        if request.proof:
            raise BadRequest("control request: Object contains unknown field `proof`")

    monkeypatch.setattr(key_rotation, "_ask", ask)
    key_rotation._register(None, "line", "proof")  # type: ignore[arg-type]
    assert [each.proof for each in asked] == ["proof", ""]
    assert b"proof" not in messages.encode_request(asked[1])


def test_files_are_on_disk_before_the_daemon_acts_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure a registered key exists, and an old key that the daemon removed does not return."""
    identity = tmp_path / "agent_ed25519"
    ssh_keys.make(identity, "first")
    done: list[str] = []
    fsync, put = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            done.append("sync")

    def replaced(old: Path, new: Path) -> None:
        put(old, new)
        if new == identity:
            done.append("replace")

    def asked(daemon: Endpoint, request: Any) -> None:
        done.append(
            "identify"
            if isinstance(request, messages.WhoAmI)
            else "register"
            if request.public_key
            else "remove old"
        )

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(key_rotation, "_ask", asked)
    daemon = Endpoint(
        "192.0.2.1", 7440, (ssh_keys.read(ssh_keys.public_file(identity)).line,), "web", identity
    )
    key_rotation._rotate((daemon,), identity, identity.with_name("agent_ed25519.next"), "hsmd agent")
    steps = [step for step, _ in groupby(done)]
    assert steps == ["remove old", "sync", "register", "identify", "replace", "sync", "remove old"]


def test_root_replaces_the_key_of_the_agents_user(
    daemon: Daemon, root: Path, request: pytest.FixtureRequest
) -> None:
    """In the layout that `agent init --owner` makes: the directory is root's, the key is the agent's."""
    identity = root / "agent_ed25519"
    daemon.ask(messages.ClientAdd("of-another-user", "front-end", ssh_keys.make(identity, "first").line))
    owner = 4_242 if os.geteuid() == 0 else os.geteuid()
    os.chown(identity, owner, -1)
    agent = daemon.endpoint("of-another-user", identity_file=identity)
    made = key_rotation.rotate([agent], "hsmd agent")
    assert keys_of(daemon, "of-another-user") == [made.fingerprint]
    status = identity.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (owner, 0o600)
    assert os.geteuid() in (0, owner)


def test_who_may_not_write_beside_the_key_is_told_who_may(daemon: Daemon, root: Path) -> None:
    identity = root / "agent_ed25519"
    ssh_keys.make(identity, "first")
    root.chmod(0o555)
    before = os.geteuid()
    os.seteuid(4_242 if before == 0 else before)
    try:
        with pytest.raises(CommandError, match="run the command as root"):
            key_rotation.rotate([daemon.endpoint("any", identity_file=identity)], "hsmd agent")
    finally:
        os.seteuid(before)
        root.chmod(0o755)


def test_an_operator_replaces_its_own_key(daemon: Daemon, tmp_path: Path, run: Run) -> None:
    key = ssh_keys.make(tmp_path / "ann_ed25519", "first")
    daemon.ask(messages.ClientAdd("ann", "operator", key.line))
    host, port = daemon.address
    pinned = Profile(f"{host}:{port}", "ann", Path("ann_ed25519"), (daemon.notice["host_key"],))
    (tmp_path / "operator.toml").write_text(render(pinned))
    ran = run("client", "rotate-key", "--profile", str(tmp_path / "operator.toml"))
    assert ran.code == 0, ran.err
    after = ssh_keys.read(tmp_path / "ann_ed25519.pub")
    assert keys_of(daemon, "ann") == [after.fingerprint] != [key.fingerprint]
    assert f"Your key is now {after.fingerprint}." in ran.out
    assert run("status", "--profile", str(tmp_path / "operator.toml")).code in (0, 5)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_root_does_not_follow_links_in_the_agents_directory(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    """The agent's user may write in its directory; root runs this command, and refuses links like any other user."""
    secret, directory = tmp_path / "shadow", tmp_path / "agent"
    secret.write_text("root's")
    directory.mkdir()
    identity = directory / "agent_ed25519"
    ssh_keys.make(identity, "first")
    if os.geteuid() == 0:
        for path in (directory, identity):
            os.chown(path, 4_242, 4_242)
    link(secret, directory / "agent_ed25519.next")
    with pytest.raises(CommandError):
        key_rotation._rotate((), identity, directory / "agent_ed25519.next", "hsmd agent")
    assert (secret.stat().st_uid, secret.read_text()) == (os.geteuid(), "root's")


def test_key_rotation_can_be_disabled(daemon: Daemon, agent: Endpoint) -> None:
    daemon.write("client_key_rotation = false")
    assert daemon.reload() == "done"
    with pytest.raises((Refused, Unavailable)):
        rotate(agent)
    daemon.write()
    assert daemon.reload() == "done"
