"""What 1,000 idle agents cost a daemon and its other clients, and how they come back after a restart; for `scripts/soak agents`.

The agents are real client connections in processes of their own. Their time is not the daemon's, but they share the machine
with it, so what other clients get is compared with what they get at a second daemon, which has no agents, while the agents
of the first one run: in short turns, because what else a machine does comes and goes.
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
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from hsmd.client import Connection  # noqa: E402
from hsmd.protocol import messages  # noqa: E402
from hsmd.purposes import Purpose  # noqa: E402
from tests.support.daemon import MAIL, OPERATOR, Daemon, public_line, running_daemon  # noqa: E402
from tests.support.load import Load  # noqa: E402
from tests.support.polling import wait_until  # noqa: E402
from tests.support.tls_bytes import P256, TLS13  # noqa: E402

AGENTS, PROCESSES, CLIENTS = 1_000, 2, 20
GENERATOR = ROOT / "tests" / "support" / "flood_generators.py"
PARALLEL = 8
SPREAD_S = 20.0
"""Time after which the pings of agents that have connected are spread over their intervals."""
IDLE_S = 15.0
"""One count of processor time while nothing is requested."""
TURN_S = 0.5
"""One count of signatures."""
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


async def warm(built: Daemon, key: bytes) -> None:
    """Let the front import and allocate what the first client costs it."""
    async with Load(built, MAIL, key, parallel=PARALLEL, timeout_s=20) as load:
        await load.more(1_000)


@dataclass
class Others:
    """A client of a daemon that keeps some requests open during its turns, and what it got in all of them."""

    built: Daemon
    key: bytes
    count: int = 0
    cpu_s: float = 0.0

    async def __aenter__(self) -> Others:
        self._connection = Connection(self.built.endpoint(MAIL))
        await self._connection.start()
        await self.turn(1.0)  # what the first client costs the front is no part of it
        self.count, self.cpu_s = 0, 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def turn(self, seconds: float) -> int:
        """Signatures in a turn."""
        spent, before = Spent(self.built.front_pid), self.count
        await asyncio.gather(*(self._sign(time.monotonic() + seconds) for _ in range(PARALLEL)))
        self.cpu_s += spent.cpu_s
        return self.count - before

    async def _sign(self, until: float) -> None:
        while time.monotonic() < until:
            await self._connection.use_key(self.key, Purpose.TLS13_SERVER, P256, TLS13, timeout_s=5)
            self.count += 1

    @property
    def cost_ms(self) -> float:
        """Processor time of the front for a signature."""
        return 1000 * self.cpu_s / self.count


async def compared(beside: Others, alone: Others, rounds: int) -> list[float]:
    """Ratios of what clients get beside the agents to what they get alone, one for each round of four turns."""
    ratios = []
    async with beside, alone:
        for _ in range(rounds):
            counts = [await each.turn(TURN_S) for each in (beside, alone, alone, beside)]
            ratios.append((counts[0] + counts[3]) / (counts[1] + counts[2]))
    return ratios


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


def measure(built: Daemon, other: Daemon, seconds: float) -> bool:
    """Measure and print; `other` has no agents. Return whether all figures are within bounds."""
    key, users = built.add_key("site", grant_to=(MAIL,)), add_clients(built)
    beside, alone = Others(built, key), Others(other, other.add_key("site", grant_to=(MAIL,)))
    windows, rounds = max(2, round(seconds / 3 / IDLE_S)), max(10, round(seconds * 2 / 3 / (4 * TURN_S)))
    asyncio.run(warm(built, key))
    memory, without = built.front_rss(), idle_cpu(built)
    with ExitStack() as stack:
        crowd = Crowd(built, users, stack)
        first = crowd.wait_ready()
        time.sleep(SPREAD_S)
        growth = built.front_rss() - memory
        together = [idle_cpu(built) for _ in range(windows)]
        ratios = asyncio.run(compared(beside, alone, rounds))
        crowd.signal(signal.SIGSTOP)
        restart_front(built)
        front, agents_s = Spent(built.front_pid), crowd.cpu_s()
        back, longest = asyncio.run(disturbed(built, key, crowd))
        front_s, agents_s = front.cpu_s, crowd.cpu_s() - agents_s
    cpu, ratio = statistics.median(together), statistics.median(ratios)
    results = (
        (f"{AGENTS} agents connected in {first:.1f} s", True),
        (f"idle: {cpu:.2%} of a core, {without:.2%} without them", cpu - without <= MOST_CPU),
        (f"rate of others: {ratio:.3f} of that at a daemon without them", ratio >= LEAST_RATE),
        (f"memory of the front: {growth / 2**20:+.1f} MiB", growth <= MOST_GROWTH),
        (f"all back after a restart in {back:.1f} s", back <= MOST_RECONNECT_S),
        (f"longest wait of a client that was there: {longest:.2f} s", longest <= MOST_DISTURBED_S),
    )
    for text, good in results:
        print(("      " if good else "BAD   ") + text, flush=True)
    print("idle:", " ".join(f"{each:.2%}" for each in together))
    quarters = statistics.quantiles(ratios)
    print(
        f"ratios of {rounds} rounds: quartiles {quarters[0]:.3f} and {quarters[2]:.3f}; of all signatures "
        f"{beside.count / alone.count:.3f}"
    )
    print(f"processor time of the front for a signature: {beside.cost_ms:.3f} ms, {alone.cost_ms:.3f} ms")
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
        running_daemon(Path(directory) / "other", workers=1, limits=limits) as other,
    ):
        sys.exit(0 if measure(built, other, seconds) else 1)


if __name__ == "__main__":
    main()
