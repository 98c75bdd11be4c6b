"""What 1,000 idle agents cost a daemon and its other clients, and how they come back after a restart; for `scripts/soak agents`.

With and without the agents is measured in turns in one run: while they are suspended, they cost nothing. They are real client
connections in processes of their own, whose time is not the daemon's, but which share the machine with it. An agent whose ping
became due while it was suspended sends it at once afterwards, so suspensions are short and nothing is counted just after one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from hsmd.protocol import messages  # noqa: E402
from tests.support.daemon import MAIL, OPERATOR, Daemon, public_line, running_daemon  # noqa: E402
from tests.support.load import Load  # noqa: E402
from tests.support.polling import wait_until  # noqa: E402

AGENTS, PROCESSES, CLIENTS = 1_000, 2, 20
GENERATOR = ROOT / "tests" / "support" / "flood_generators.py"
PARALLEL = 8
SPREAD_S = 20.0
"""Time after which the pings of agents that have connected are spread over their intervals."""
IDLE_S = 15.0
"""One count of processor time while nothing is requested."""
TURN_S, SETTLED_S = 4.0, 2.0
"""One count of signatures, and the time after a suspension in which nothing is counted."""
OTHERWISE_S = 90.0
"""About what a run takes besides its counts."""

MOST_CPU = 0.02
LEAST_RATE = 0.95
MOST_GROWTH = 25 << 20
MOST_RECONNECT_S = 10.0
MOST_DISTURBED_S = 1.0


class Crowd:
    """The agents' processes."""

    def __init__(self, built: Daemon, users: list[str], stack: ExitStack) -> None:
        host, port = built.address
        key = built.notice["host_key"]
        count = str(AGENTS // PROCESSES)
        command = [sys.executable, GENERATOR, "agents", host, str(port), built.directory, key, count, *users]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            for _ in range(PROCESSES)
        ]
        for process in self._processes:
            stack.callback(process.communicate)
            stack.callback(process.kill)

    def wait_ready(self) -> float:
        """Wait until all agents are connected; return how long it took since the first one was not."""
        took = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "a generator ended"
            took.append(float(line.split()[1]))
        return max(took)

    def cpu_s(self) -> float:
        """Processor time that they have used."""
        return sum(cpu_s(process.pid) for process in self._processes)

    def signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(number)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Spent:
    """Time and processor time of the front since a moment."""

    pid: int

    def __post_init__(self) -> None:
        self._cpu_s, self._began = cpu_s(self.pid), time.monotonic()

    @property
    def cpu_s(self) -> float:
        return cpu_s(self.pid) - self._cpu_s

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


def idle_cpu(built: Daemon) -> float:
    """The share of a core that the front uses while nothing is requested."""
    spent = Spent(built.front_pid)
    time.sleep(IDLE_S)
    return spent.cpu_s / spent.seconds


@dataclass
class Turn:
    """What another client got in one turn."""

    rate: float
    """Signatures a second."""
    cost_ms: float
    """Processor time of the front for each: what else the machine does has no part in it."""


async def warm(built: Daemon, key: bytes) -> None:
    """Let the front import and allocate what the first client costs it."""
    async with Load(built, MAIL, key, parallel=PARALLEL, timeout_s=20) as load:
        await load.more(1_000)


async def turn(built: Daemon, load: Load) -> Turn:
    load.done.clear()
    spent = Spent(built.front_pid)
    await asyncio.sleep(TURN_S)
    count = len(load.done)
    assert not load.failures, load.failures[:3]
    return Turn(count / spent.seconds, 1000 * spent.cpu_s / count)


async def turns(built: Daemon, key: bytes, crowd: Crowd, count: int) -> list[tuple[Turn, Turn]]:
    """Turns of a client that keeps some requests open: each with the agents, then without them."""
    pairs = []
    async with Load(built, MAIL, key, parallel=PARALLEL, timeout_s=5) as load:
        await load.more(100)
        for _ in range(count):
            with_them = await turn(built, load)
            with crowd.suspended():
                pairs.append((with_them, await turn(built, load)))
            await asyncio.sleep(SETTLED_S)
    return pairs


async def disturbed(built: Daemon, key: bytes, crowd: Crowd) -> tuple[float, float]:
    """(seconds until all agents are back, the longest time that a client, connected before them, waited for a signature)."""
    async with Load(built, MAIL, key, parallel=1, timeout_s=20) as load:
        await load.more(20)
        first = len(load.done)
        crowd.signal(signal.SIGCONT)
        took = await asyncio.to_thread(crowd.wait_ready)
    assert not load.failures, load.failures[:3]
    return took, max(done.took_s for done in load.done[first:])


def add_clients(built: Daemon) -> list[str]:
    """Clients for the agents: one client may have only a part of all connections."""
    import asyncssh

    users = [f"agent-{number}" for number in range(CLIENTS)]
    for user in users:
        key = asyncssh.generate_private_key("ssh-ed25519")
        path = built.directory / user
        path.touch(mode=0o600)
        key.write_private_key(path)
        built.ask(messages.ClientAdd(user, "front-end", public_line(key)), OPERATOR)
    return users


def measure(built: Daemon, seconds: float) -> bool:
    key, users = built.add_key("site", grant_to=(MAIL,)), add_clients(built)
    windows, rounds = (
        max(2, round(seconds / 3 / IDLE_S)),
        max(3, round(seconds / 2 / (2 * TURN_S + SETTLED_S))),
    )
    asyncio.run(warm(built, key))
    memory, alone = built.front_rss(), idle_cpu(built)
    with ExitStack() as stack:
        crowd = Crowd(built, users, stack)
        first = crowd.wait_ready()
        time.sleep(SPREAD_S)
        growth = built.front_rss() - memory
        together = [idle_cpu(built) for _ in range(windows)]
        with crowd.suspended():
            suspended = idle_cpu(built)
        pairs = asyncio.run(turns(built, key, crowd, rounds))
        crowd.signal(signal.SIGSTOP)
        restart_front(built)
        front, agents_s = Spent(built.front_pid), crowd.cpu_s()
        back, longest = asyncio.run(disturbed(built, key, crowd))
        front_s, agents_s = front.cpu_s, crowd.cpu_s() - agents_s
    cpu, ratio = statistics.median(together), statistics.median(a.rate / b.rate for a, b in pairs)
    results = (
        (f"{AGENTS} agents connected in {first:.1f} s", True),
        (
            f"idle: {cpu:.2%} of a core, {alone:.2%} without them, {suspended:.2%} while they are suspended",
            cpu - alone <= MOST_CPU,
        ),
        (f"rate of others: {ratio:.3f} of that without them", ratio >= LEAST_RATE),
        (f"memory of the front: {growth / 2**20:+.1f} MiB", growth <= MOST_GROWTH),
        (f"all back after a restart in {back:.1f} s", back <= MOST_RECONNECT_S),
        (f"longest wait of a client that was there: {longest:.2f} s", longest <= MOST_DISTURBED_S),
    )
    for text, good in results:
        print(("      " if good else "BAD   ") + text, flush=True)
    print("idle:", " ".join(f"{each:.2%}" for each in together))
    print("rates with/without:", " ".join(f"{a.rate:.0f}/{b.rate:.0f}" for a, b in pairs))
    costs = statistics.median(a.cost_ms for a, _ in pairs), statistics.median(b.cost_ms for _, b in pairs)
    print(
        f"processor time of the front for a signature: {costs[0]:.3f} ms with them, {costs[1]:.3f} ms without"
    )
    print(
        f"processor time of the return: front {front_s:.1f} s, agents {agents_s:.1f} s; load {os.getloadavg()[0]:.1f}"
    )
    return all(good for _, good in results)


def restart_front(built: Daemon) -> None:
    before = built.front_pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: before not in built.pids() and listens(built), "another front listens", 20)
    built.wait_for_workers()


def listens(built: Daemon) -> bool:
    with suppress(OSError), socket.create_connection(built.address, timeout=1):
        return True
    return False


def free_port() -> int:
    """A port of this machine: after its restart the front must listen where it did before."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def main() -> None:
    """Exit with code 1 if a figure is out of bounds. The seed has no effect here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    seconds = given.minutes * 60 - OTHERWISE_S
    limits = {"connections": 2 * AGENTS, "client_rate": 100_000}
    with (
        tempfile.TemporaryDirectory(prefix="hsmd-agents-", dir="/dev/shm") as directory,
        running_daemon(
            Path(directory) / "daemon", workers=1, limits=limits, addresses=[f"127.0.0.1:{free_port()}"]
        ) as built,
    ):
        sys.exit(0 if measure(built, seconds) else 1)


if __name__ == "__main__":
    main()
