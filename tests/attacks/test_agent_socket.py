"""Attacks on the agent's socket by other users of the host (A11), and a front end that asks for another client's key."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from hsmd.agent import config as configs
from hsmd.agent.config import KEEP, SocketConfig
from hsmd.agent.listener import Listener, listen
from hsmd.agent.policy import Rules
from hsmd.errors import ConfigurationError, Conflict, ErrorCode
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import Capability, Kind, encode_hello, encode_key_operation
from tests.support.agent_site import SCHEME, AgentSite
from tests.support.daemon import MAIL, WEB, Daemon, run_aside
from tests.support.ssh_peer import ssh, wire

Talk = Callable[[int, Path, bytes], Awaitable[bytes]]
NOBODY, DAEMON, BIN = 65534, 1, 2


def use(key: bytes) -> bytes:
    return encode_hello(Capability.CONTROL) + encode_key_operation(1, 2000, 8, SCHEME, key, b"data")


def kinds(answer: bytes) -> list[int]:
    return [kind for kind, request, _ in FrameDecoder(1 << 20).feed(answer) if request == 1]


# --- peer credentials ---


async def test_each_user_gets_the_keys_that_agent_toml_grants(agent_site: AgentSite, as_user: Talk) -> None:
    """Real users on the real socket; a user without a key gets the same refusal for every key."""
    mail = agent_site.daemon.add_key("mail")
    users = [NOBODY, DAEMON, BIN] if os.geteuid() == 0 else [os.geteuid()]
    agent_site.users = "[]"
    agent_site.extra = f'[keys.www]\nusers = ["{users[0]}"]\n[keys.mail]\nusers = ["{users[-1]}", "{users[min(1, len(users) - 1)]}"]\n'
    await agent_site.start()
    allowed = {
        (users[0], agent_site.key.digest),
        (users[-1], mail.digest),
        (users[min(1, len(users) - 1)], mail.digest),
    }
    for uid in users:
        for key in (agent_site.key.digest, mail.digest, bytes(32)):
            expected = Kind.RESULT if (uid, key) in allowed else Kind.ERROR
            assert kinds(await as_user(uid, agent_site.socket, use(key))) == [expected], (uid, key.hex()[:8])


async def test_a_user_without_access_to_the_socket_gets_no_answer(
    agent_site: AgentSite, as_user: Talk
) -> None:
    """File mode and group are checked first, the user id second."""
    await agent_site.start()
    agent_site.socket.chmod(0o600)
    if os.geteuid() != 0:
        assert agent_site.socket.stat().st_mode & 0o077 == 0
        return
    assert await as_user(NOBODY, agent_site.socket, use(agent_site.key.digest)) == b""
    agent_site.socket.chmod(0o666)
    assert kinds(await as_user(NOBODY, agent_site.socket, use(agent_site.key.digest))) == [Kind.RESULT]


async def test_a_passed_descriptor_acts_for_the_user_that_connected(agent_site: AgentSite) -> None:
    """SO_PEERCRED is set by connect(2): a reused process id, or another process that has the socket, changes nothing."""
    if os.geteuid() != 0:
        assert await agent_site.start()
        return
    agent_site.users = f'["{DAEMON}"]'
    await agent_site.start()
    talk = (
        "import socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\ns.sendall(sys.stdin.buffer.read())\n"
    )
    talk += "s.settimeout(1)\ntry:\n    while d := s.recv(65536): sys.stdout.buffer.write(d)\nexcept TimeoutError: pass\n"

    def connected_as(uid: int) -> bytes:
        import socket

        with socket.socket(socket.AF_UNIX) as sock:
            os.seteuid(uid)
            try:
                sock.connect(str(agent_site.socket))
            finally:
                os.seteuid(0)
            return subprocess.run(
                ["/usr/bin/python3", "-c", talk, str(sock.fileno())],
                input=use(agent_site.key.digest),
                pass_fds=[sock.fileno()],
                user=DAEMON if uid == NOBODY else NOBODY,
                extra_groups=[],
                capture_output=True,
                check=True,
                cwd="/",
                timeout=20,
            ).stdout

    agent_site.socket.chmod(0o666)
    assert kinds(await asyncio.to_thread(connected_as, DAEMON)) == [Kind.RESULT]
    assert kinds(await asyncio.to_thread(connected_as, NOBODY)) == [Kind.ERROR]


NAMES = st.sampled_from(["www", "mail", "WWW", "www ", "", "*", "ẃww"])
UIDS = st.sampled_from([0, 1, 1000, 65534, 2**32 - 1])


@given(
    default=st.none() | st.frozensets(UIDS),
    by_key=st.dictionaries(NAMES, st.none() | st.frozensets(UIDS)),
    uid=UIDS,
    present=st.lists(st.tuples(NAMES, st.binary(min_size=1, max_size=2))),
)
def test_pairs_of_user_and_key(
    default: frozenset[int] | None,
    by_key: dict[str, frozenset[int] | None],
    uid: int,
    present: list[tuple[str, bytes]],
) -> None:
    """Only the key's own entry applies; names are compared exactly; root has no special privilege."""
    rules = Rules(default, by_key)
    expected = set()
    for name, digest in present:
        users = by_key.get(name, default)
        if users is None or uid in users:
            expected.add(digest)
    assert rules.keys_for(uid, present) == expected


def test_the_daemon_refuses_a_front_end_the_key_of_another_client(tmp_path: Path) -> None:
    """Root of the agent's host can make the agent send anything: the daemon decides again, and records it."""
    built = Daemon(tmp_path / "daemon").start()
    try:
        own, other = built.add_key("www", grant_to=(WEB,)), built.add_key("mail", grant_to=(MAIL,))

        async def ask(key: bytes) -> int:
            async with await ssh(built, WEB) as connection:
                kind, body = await (await wire(connection)).use(1, key)
                return 0 if kind == Kind.RESULT else int.from_bytes(body[:2])

        assert run_aside(lambda: ask(own)) == 0
        assert run_aside(lambda: ask(other)) == ErrorCode.REFUSED
        assert [record["key"] for record in built.audit() if record.get("rule")] == [other.hex()]
    finally:
        built.end()


# --- the path of the socket ---


@pytest.fixture
def socket_path(root: Path) -> Path:
    (root / "run").mkdir(mode=0o755)
    return root / "run" / "agent.sock"


def config(path: Path) -> SocketConfig:
    return SocketConfig(path, 0o660, KEEP, KEEP)


@pytest.mark.parametrize(
    "name", ["@hsmd", "\\u0000hsmd", "agent.sock", "./agent.sock", "/run/../tmp/agent.sock"]
)
def test_abstract_and_relative_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"agent\.socket"):
        configs.parse(f'[agent]\nsocket = "{name}"\nclient = "web"\nidentity = "/k"\n')


def test_exactly_one_of_many_agents_started_together_listens(socket_path: Path) -> None:
    """A stale socket exists, and no process listens on it."""
    import socket

    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(socket_path))
    for _ in range(20):
        won: list[Listener] = []
        lost: list[Exception] = []
        together = threading.Barrier(8)

        def start(
            won: list[Listener] = won, lost: list[Exception] = lost, gate: threading.Barrier = together
        ) -> None:
            gate.wait(10)
            try:
                won.append(listen(config(socket_path)))
            except Conflict as error:
                lost.append(error)

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert (len(won), len(lost)) == (1, 7)
        won[0].close()


def test_links_swapped_in_while_the_socket_is_created_are_not_followed(socket_path: Path, root: Path) -> None:
    """Symbolic links replace every name that is used: their target is neither changed, removed nor listened on."""
    victim = root / "victim"
    victim.write_text("precious")
    victim.chmod(0o600)
    names = [
        socket_path,
        socket_path.with_name(f".{socket_path.name}.new"),
        socket_path.with_name(f".{socket_path.name}.lock"),
    ]
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for name in names:
                name.unlink(missing_ok=True)
                try:
                    name.symlink_to(victim)
                except FileExistsError:
                    continue

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        for _ in range(200):
            try:
                listen(config(socket_path)).close()
            except (ConfigurationError, Conflict):
                continue
    finally:
        done.set()
        attacker.join(20)
    assert victim.read_text() == "precious"
    assert victim.stat().st_mode & 0o777 == 0o600
