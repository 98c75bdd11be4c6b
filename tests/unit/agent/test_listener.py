"""The listening socket: only where it is safe, complete when it appears, and never in the place of another process's socket."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmd.agent import listener as listeners
from hsmd.agent.config import KEEP, SocketConfig
from hsmd.agent.listener import Listener, inherited, listen
from hsmd.errors import ConfigurationError, Conflict


@pytest.fixture
def place(tmp_path: Path) -> Path:
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


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_mode_is_exact_whatever_the_umask(place: Path, opened: list[Listener], mode: int) -> None:
    before = os.umask(0o077)
    try:
        opened.append(listen(config(place, mode)))
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.stat().st_mode) == mode
    assert connects(place)


def test_owner_and_group(place: Path, opened: list[Listener]) -> None:
    owner, group = (12345, 54321) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    opened.append(listen(config(place, owner=owner, group=group)))
    assert (place.stat().st_uid, place.stat().st_gid) == (owner, group)


def test_no_connection_is_accepted_before_the_socket_is_complete(
    place: Path, opened: list[Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    replace = Path.replace

    def watching(self: Path, target: Path) -> Path:
        seen.append((place.exists(), stat.S_IMODE(self.stat().st_mode) == 0o600))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watching)
    opened.append(listen(config(place, 0o600)))
    assert seen == [(False, True)]


def test_closing_removes_the_name(place: Path) -> None:
    listener = listen(config(place))
    listener.close()
    listener.close()
    assert not place.exists()


def test_closing_leaves_a_name_that_is_no_longer_ours(place: Path) -> None:
    listener = listen(config(place))
    moved = place.with_name("moved.sock")
    place.rename(moved)
    place.write_text("another user's")
    listener.close()
    assert place.read_text() == "another user's"


def test_directory_is_made_if_only_it_is_missing(tmp_path: Path, opened: list[Listener]) -> None:
    opened.append(listen(config(tmp_path / "new" / "agent.sock")))
    with pytest.raises(ConfigurationError, match="No such file"):
        listen(config(tmp_path / "a" / "b" / "agent.sock"))


def test_symbolic_links_on_the_way_are_refused(place: Path) -> None:
    link = place.parent.with_name("link")
    link.symlink_to(place.parent)
    with pytest.raises(ConfigurationError, match="symbolic link"):
        listen(config(link / "agent.sock"))
    (place.parent / "sub").mkdir()
    with pytest.raises(ConfigurationError, match="symbolic link"):
        listen(config(link / "sub" / "agent.sock"))


def test_directories_that_others_can_write_are_refused(place: Path) -> None:
    for mode in (0o777, 0o775, 0o1777):
        place.parent.chmod(mode)
        with pytest.raises(ConfigurationError, match="writable by other users"):
            listen(config(place))
    place.parent.chmod(0o755)
    place.parent.parent.chmod(0o777)
    with pytest.raises(ConfigurationError, match="writable by other users"):
        listen(config(place))
    place.parent.parent.chmod(0o755)


def test_directory_of_another_user_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(place.parent, 12345, 12345)
    else:
        monkeypatch.setattr(listeners.os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        listen(config(place))


def test_links_and_files_in_the_socket_s_place_are_refused(place: Path) -> None:
    victim = place.with_name("victim")
    victim.write_text("precious")
    place.symlink_to(victim)
    with pytest.raises(ConfigurationError, match="not a socket"):
        listen(config(place))
    place.unlink()
    place.write_text("precious")
    with pytest.raises(ConfigurationError, match="not a socket"):
        listen(config(place))
    assert victim.read_text() == place.read_text() == "precious"


def test_stale_socket_is_taken_over(place: Path, opened: list[Listener]) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(place))
    opened.append(listen(config(place)))
    assert connects(place)


def test_a_socket_in_use_is_not_taken_over(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place))
        other.listen()
        with pytest.raises(Conflict, match="an agent is running"):
            listen(config(place))
        assert connects(place)


def test_second_agent_is_refused_even_without_the_socket(place: Path, opened: list[Listener]) -> None:
    opened.append(listen(config(place)))
    with pytest.raises(Conflict):
        listen(config(place))
    place.unlink()
    with pytest.raises(Conflict):
        listen(config(place))


def test_lock_is_not_followed_elsewhere(place: Path) -> None:
    victim = place.with_name("victim")
    place.with_name(".agent.sock.lock").symlink_to(victim)
    with pytest.raises(ConfigurationError):
        listen(config(place))
    assert not victim.exists()


def test_failed_start_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(listeners.os, "chown", refuse)
    with pytest.raises(ConfigurationError, match="Operation not permitted"):
        listen(config(place))
    monkeypatch.undo()
    assert [path.name for path in place.parent.iterdir()] == [".agent.sock.lock"]
    listen(config(place)).close()


# --- socket activation ---


def activated(*made: str) -> int:
    """Run `inherited` in a child that was passed sockets; its exit code says what happened."""
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


def test_sockets_passed_by_systemd(tmp_path: Path) -> None:
    assert activated(str(tmp_path / "good.sock")) == 0
    assert activated(str(tmp_path / "a.sock"), str(tmp_path / "b.sock")) == 2
    assert activated("\0hsmd-abstract-test") == 2
    assert activated(str(tmp_path / "dgram")) == 2
    assert activated(str(tmp_path / "c.sock") + ":silent") == 2


def test_sockets_meant_for_another_process_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert inherited() is None
