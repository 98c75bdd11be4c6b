"""The listening socket: created only in a safe directory, complete when it appears, never replacing another process's socket."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmd.agent import listener as listeners
from hsmd.agent.config import KEEP, SocketConfig
from hsmd.agent.listener import Listener, inherited, listen
from hsmd.errors import ConfigurationError, Conflict


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir(mode=0o755)
    return directory / "agent.sock"


@pytest.fixture
def opened() -> Iterator[list[Listener]]:
    opened: list[Listener] = []
    yield opened
    for listener in opened:
        listener.close()


def config(path: Path, mode: int = 0o660, owner: int = KEEP, group: int = KEEP) -> SocketConfig:
    return SocketConfig(path, mode, owner, group)


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def may_connect(path: Path, *users: int) -> tuple[bool, ...]:
    """Which of these users, without any groups of their own, can connect; only root can try it, others look at the list."""
    if os.geteuid() == 0:
        return tuple(connects_as(user, path) for user in users)
    listed = (
        os.getxattr(path, "system.posix_acl_access")
        if "system.posix_acl_access" in os.listxattr(path)
        else b""
    )
    return tuple(struct.pack("<HHI", 0x02, 0o6, user) in listed for user in users)


def connects_as(user: int, path: Path) -> bool:
    script = "import socket, sys; sys.exit(socket.socket(socket.AF_UNIX).connect_ex(sys.argv[1]) != 0)"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", script, str(path)], user=user, group=user, extra_groups=[], check=False
    )
    return done.returncode == 0


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_mode_is_exact_for_any_umask(path: Path, opened: list[Listener], mode: int) -> None:
    before = os.umask(0o077)
    try:
        opened.append(listen(config(path, mode)))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert connects(path)


def test_owner_and_group(path: Path, opened: list[Listener]) -> None:
    owner, group = (12345, 54321) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    opened.append(listen(config(path, owner=owner, group=group)))
    assert (path.stat().st_uid, path.stat().st_gid) == (owner, group)


def test_named_users_connect_whatever_their_groups(opened: list[Listener]) -> None:
    named, other = 12345, 12346
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        path = Path(made) / "agent.sock"
        opened.append(listen(SocketConfig(path, 0o600, KEEP, KEEP, frozenset({named}))))
        assert may_connect(path, named, other) == (True, False)
        opened[0].protect(SocketConfig(path, 0o660, KEEP, KEEP, frozenset({other})))
        assert may_connect(path, named, other) == (False, True)
        opened[0].protect(config(path, 0o660))
        assert may_connect(path, named, other) == (False, False)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_without_access_lists_the_mode_is_set(
    path: Path, opened: list[Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "setxattr", unsupported)
    opened.append(listen(SocketConfig(path, 0o640, KEEP, KEEP, frozenset({12345}))))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_owner_and_group_are_left_alone_unless_they_are_set(
    path: Path, opened: list[Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's system call filter has no chown(2)."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", refused)
    opened.append(listen(config(path)))


def test_no_connection_is_accepted_before_the_socket_is_complete(
    path: Path, opened: list[Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    replace = Path.replace

    def watching(self: Path, target: Path) -> Path:
        seen.append((path.exists(), stat.S_IMODE(self.stat().st_mode) == 0o600))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watching)
    opened.append(listen(config(path, 0o600)))
    assert seen == [(False, True)]


def test_closing_removes_the_name(path: Path) -> None:
    listener = listen(config(path))
    listener.close()
    listener.close()
    assert not path.exists()


def test_closing_leaves_a_file_that_replaced_the_socket(path: Path) -> None:
    listener = listen(config(path))
    moved = path.with_name("moved.sock")
    path.rename(moved)
    path.write_text("another user's")
    listener.close()
    assert path.read_text() == "another user's"


def test_only_the_last_directory_is_created_if_missing(tmp_path: Path, opened: list[Listener]) -> None:
    opened.append(listen(config(tmp_path / "new" / "agent.sock")))
    with pytest.raises(ConfigurationError, match="No such file"):
        listen(config(tmp_path / "a" / "b" / "agent.sock"))


def test_symbolic_links_in_the_path_are_refused(path: Path) -> None:
    link = path.parent.with_name("link")
    link.symlink_to(path.parent)
    with pytest.raises(ConfigurationError, match="symbolic link"):
        listen(config(link / "agent.sock"))
    (path.parent / "sub").mkdir()
    with pytest.raises(ConfigurationError, match="symbolic link"):
        listen(config(link / "sub" / "agent.sock"))


def test_directories_that_others_can_write_are_refused(path: Path) -> None:
    for mode in (0o777, 0o775, 0o1777):
        path.parent.chmod(mode)
        with pytest.raises(ConfigurationError, match="writable by other users"):
            listen(config(path))
    path.parent.chmod(0o755)
    path.parent.parent.chmod(0o777)
    with pytest.raises(ConfigurationError, match="writable by other users"):
        listen(config(path))
    path.parent.parent.chmod(0o755)


def test_directory_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(path.parent, 12345, 12345)
    else:
        monkeypatch.setattr(listeners.os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        listen(config(path))


def test_links_and_files_with_the_name_of_the_socket_are_refused(path: Path) -> None:
    victim = path.with_name("victim")
    victim.write_text("precious")
    path.symlink_to(victim)
    with pytest.raises(ConfigurationError, match="not a socket"):
        listen(config(path))
    path.unlink()
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="not a socket"):
        listen(config(path))
    assert victim.read_text() == path.read_text() == "precious"


def test_a_stale_socket_is_replaced(path: Path, opened: list[Listener]) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    opened.append(listen(config(path)))
    assert connects(path)


def test_a_socket_in_use_is_not_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(Conflict, match="an agent is running"):
            listen(config(path))
        assert connects(path)


def test_a_second_agent_is_refused_even_without_the_socket(path: Path, opened: list[Listener]) -> None:
    opened.append(listen(config(path)))
    with pytest.raises(Conflict):
        listen(config(path))
    path.unlink()
    with pytest.raises(Conflict):
        listen(config(path))


def test_a_link_with_the_name_of_the_lock_is_not_followed(path: Path) -> None:
    victim = path.with_name("victim")
    path.with_name(".agent.sock.lock").symlink_to(victim)
    with pytest.raises(ConfigurationError):
        listen(config(path))
    assert not victim.exists()


def test_a_failed_start_leaves_no_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(listeners.os, "chown", refuse)
    with pytest.raises(ConfigurationError, match="Operation not permitted"):
        listen(config(path, group=os.getegid()))
    monkeypatch.undo()
    assert [path.name for path in path.parent.iterdir()] == [".agent.sock.lock"]
    listen(config(path)).close()


# --- socket activation ---


def activated(*made: str) -> int:
    """Run `inherited` in a child that was passed sockets; its exit code tells the result."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 99
    try:
        sockets = []
        for path in made:
            sock = socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM if path.endswith("dgram") else socket.SOCK_STREAM
            )
            sock.bind(path.removesuffix(":silent"))
            if sock.type == socket.SOCK_STREAM and not path.endswith(":silent"):
                sock.listen()
            sockets.append(sock)
        descriptors = [os.dup2(os.dup(sock.fileno()), 200 + at) for at, sock in enumerate(sockets)]
        for at, descriptor in enumerate(descriptors):
            os.dup2(descriptor, 3 + at)
        os.environ |= {"LISTEN_FDS": str(len(made)), "LISTEN_PID": str(os.getpid())}
        listener = inherited()
        code = (
            0
            if listener is not None
            and listener.socket.getsockname() == made[0]
            and "LISTEN_FDS" not in os.environ
            else 1
        )
    except ConfigurationError:
        code = 2
    finally:
        os._exit(code)


def test_sockets_passed_by_systemd_are_used(tmp_path: Path) -> None:
    assert activated(str(tmp_path / "good.sock")) == 0
    assert activated(str(tmp_path / "a.sock"), str(tmp_path / "b.sock")) == 2
    assert activated("\0hsmd-abstract-test") == 2
    assert activated(str(tmp_path / "dgram")) == 2
    assert activated(str(tmp_path / "c.sock") + ":silent") == 2


def test_sockets_passed_to_another_process_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert inherited() is None
