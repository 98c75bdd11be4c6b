"""The handshakes of `hsmd agent check`: with the user, groups and chroot of a server, and what is said when one fails."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hsmd.cli.agent import check_access, check_handshake, check_openssl, check_server
from hsmd.cli.agent.check_results import Finding
from hsmd.cli.agent.handshake import KINDS, Actor
from hsmd.cli.agent.servers import haproxy_settings
from hsmd.cli.agent.servers.haproxy_settings import Settings
from hsmd.system import host_users
from tests.support.fake_agent import Agent, Fault
from tests.support.provider import Environment, Identity

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def actor(environment: Environment, agent: Agent, socket_path: Path) -> Actor:
    """A server that loads its keys as root and then becomes another user without groups; without root, this user."""
    for directory in (environment.directory, *environment.directory.parents):
        if directory.stat().st_uid == os.geteuid() and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o011)
    socket_path.chmod(0o666)
    account = host_users.find("nobody") if IS_ROOT else None
    return Actor(environment.configuration(), account, (), loads_as_root=True)


def check(actor: Actor, identity: Identity, *purposes: str) -> list[Finding]:
    tried = check_handshake.attempts("www", purposes, identity.certificate, identity.reference)
    assert len(tried) == len(purposes)
    return check_handshake.check(actor, "haproxy", "web1", tried)


def test_each_purpose_is_tried(actor: Actor, agent: Agent, identities: dict[str, Identity]) -> None:
    [found] = check(actor, identities["rsa"], *KINDS)
    assert found.ok and all(kind.name in found.text for kind in KINDS.values())
    assert sorted(request.purpose for request in agent.requests) == [1, 2, 3, 4, 5]


def test_a_socket_that_the_user_may_not_use_is_found(
    actor: Actor, socket_path: Path, identities: dict[str, Identity]
) -> None:
    socket_path.chmod(0o600 if IS_ROOT else 0)
    [found] = check(actor, identities["p256"], "tls13-server")
    assert (found.ok, "may not use the socket" in found.text) == (False, True)
    assert "`users` in agent.toml" in found.fix and "group" not in found.fix


def test_a_chroot_that_hides_the_socket_is_found(
    actor: Actor, tmp_path: Path, socket_path: Path, identities: dict[str, Identity]
) -> None:
    """The key is loaded before the server enters its chroot, so that only a handshake shows it."""
    chroot = tmp_path / "chroot"
    chroot.mkdir()
    if not IS_ROOT:
        assert Actor(actor.openssl, chroot=chroot).name == f"as you, in {chroot}"
        return
    inside = Actor(actor.openssl, actor.account, (), loads_as_root=True, chroot=chroot)
    [found] = check(inside, identities["p256"], "tls13-server")
    assert (found.ok, "no such socket" in found.text) == (False, True)
    assert "the chroot hides the socket: run hsmd agent install haproxy" in found.fix
    shown = Actor(
        actor.openssl,
        actor.account,
        (),
        loads_as_root=True,
        chroot=chroot,
        binds=((socket_path.parent, chroot / socket_path.parent.relative_to("/")),),
    )
    [found] = check(shown, identities["p256"], "tls13-server")
    assert found.ok, found.text


def test_the_reason_of_the_daemon_is_shown(
    actor: Actor, agent: Agent, identities: dict[str, Identity]
) -> None:
    agent.fault = Fault.ERROR_BEFORE_READING
    [found] = check(actor, identities["p256"], "tls13-server", "tls12-server")
    assert not found.ok and "TLS 1.3, TLS 1.2" in found.text and "hsmd: " in found.text


def test_files_that_do_not_belong_together_are_found(actor: Actor, identities: dict[str, Identity]) -> None:
    tried = check_handshake.attempts(
        "www", ["tls13-server"], identities["other"].certificate, identities["p256"].reference
    )
    [found] = check_handshake.check(actor, "nginx", "web1", tried)
    assert (found.ok, "mismatch" in found.text) == (False, True)
    assert "hsmd agent export www" in found.fix


def test_a_server_that_was_not_restarted_is_found(tmp_path: Path) -> None:
    actor = Actor(Path("/etc/hsmd/openssl.cnf"), binds=((Path("/run/hsmd"), Path("/c/run/hsmd")),))
    maps, mounts = tmp_path / "maps", tmp_path / "mountinfo"
    maps.write_text("7f00 r-xp 00000000 fe:00 1 /usr/lib/libssl.so.3\n")
    mounts.write_text("36 35 0:1 / / rw - ext4 /dev/vda rw\n")
    [found] = check_server.check_process("haproxy.service", tmp_path, actor)
    assert (found.ok, "has not loaded" in found.text) == (False, True)
    assert "systemctl restart haproxy " in found.fix
    maps.write_text(maps.read_text() + "7f01 r-xp 00000000 fe:00 2 /opt/hsmd/provider/hsmd.so\n")
    [found] = check_server.check_process("haproxy.service", tmp_path, actor)
    assert (found.ok, "does not see /c/run/hsmd" in found.text) == (False, True)
    mounts.write_text(mounts.read_text() + "37 36 0:2 / /c/run/hsmd ro - tmpfs tmpfs rw\n")
    [found] = check_server.check_process("haproxy.service", tmp_path, actor)
    assert found.ok
    assert check_server.check_process("x", tmp_path / "gone", actor) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Settings()),
        ("defaults\n  user no\n", Settings()),
        ("global # first\n  chroot /var/lib/haproxy\n\tuser haproxy\n group 105 # its id\nfrontend x\n user no\n",
         Settings(Path("/var/lib/haproxy"), "haproxy", "105")),
        ("global\n uid 5\nglobal\n gid 6\n", Settings(None, "5", "6")),
        ('global\n #chroot /x\n chroot "/a"\n', Settings(Path("/a"))),
    ],
)  # fmt: skip
def test_settings_of_haproxy(tmp_path: Path, text: str, expected: Settings) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text(text)
    assert haproxy_settings.read(path) == expected
    assert haproxy_settings.read(tmp_path / "absent") == Settings()


@pytest.mark.parametrize("writable", ["configuration", "included file", "module", "directory"])
def test_root_loads_nothing_that_another_user_could_change(
    environment: Environment, tmp_path: Path, writable: str
) -> None:
    """OpenSSL runs the code that its configuration names; the user of the server may be who wrote it."""
    (tmp_path / "of-a-user").mkdir()
    module = Path(shutil.copy(environment.module, tmp_path / "of-a-user/copy.so"))
    site = tmp_path / "site.cnf"
    site.touch(0o644)
    configuration = environment.configuration(module=module)
    configuration.write_text(f".include {site}\n{configuration.read_text()}")
    for path in (configuration, site, module, module.parent):
        path.chmod(0o755)
    assert all(found.ok for found in check_openssl.check_openssl(configuration, None))
    {
        "configuration": configuration,
        "included file": site,
        "module": module,
        "directory": module.parent,
    }[writable].chmod(0o777)
    found = check_openssl.check_openssl(configuration, None)
    assert ("root must not load" in found[0].text) is IS_ROOT
    assert (len(found) == 1) is IS_ROOT


def test_another_user_sees_nothing_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc/PID/environ of a process can be read by the user whose process it is."""
    probe = tmp_path / "probe"
    probe.write_text('#!/bin/sh\n[ -z "$HSMD_SECRET" ]\n')
    tmp_path.chmod(0o755)
    for directory in tmp_path.parents:
        if directory.stat().st_uid == os.geteuid() and directory not in (Path("/tmp"), Path("/")):
            directory.chmod(directory.stat().st_mode | 0o011)
    probe.chmod(0o755)
    monkeypatch.setattr(check_access, "_TEST", str(probe))
    monkeypatch.setenv("HSMD_SECRET", "for root")
    account = host_users.find("nobody") if IS_ROOT else host_users.by_uid(os.geteuid())
    assert account is not None
    wanted = check_access.Wanted(probe, "read", "-r")
    assert check_access.check(Actor(Path("/x"), account), wanted).ok


def test_root_makes_no_directory_where_the_servers_user_leads(
    actor: Actor, identities: dict[str, Identity], tmp_path: Path, socket_path: Path
) -> None:
    """The chroot of HAProxy belongs to its user on Debian."""
    chroot, elsewhere = tmp_path / "chroot", tmp_path / "elsewhere"
    chroot.mkdir()
    elsewhere.mkdir()
    elsewhere.chmod(0o555)
    if IS_ROOT:
        os.chown(chroot, 4_242, 4_242)
    (chroot / "run").symlink_to(elsewhere)
    led = replace(actor, chroot=chroot, binds=((socket_path.parent, chroot / "run/hsmd"),))
    check(led, identities["p256"], "tls13-server")
    assert list(elsewhere.iterdir()) == []
