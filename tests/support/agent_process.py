"""An agent as a process of its own, connected to a daemon of the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hsmd.client import AgentEndpoint, Client
from hsmd.errors import HsmdError
from hsmd.protocol.messages import KeyList
from tests.support.daemon import Daemon
from tests.support.polling import wait_until


class AgentProcess:
    """`hsmd agent run` for one client of a daemon; every local user may use every key."""

    def __init__(self, directory: Path, daemon: Daemon, client: str, *, keys: int = 1) -> None:
        self.directory, self.socket, self.log = directory, directory / "agent.sock", directory / "agent.log"
        self._keys = keys
        directory.mkdir(mode=0o755, parents=True)
        endpoint = daemon.endpoint(client)
        self.config = directory / "agent.toml"
        self.config.write_text(f"""
[agent]
socket = "{self.socket}"
mode = "0666"
state = "{directory}/state"
client = "{client}"
identity = "{endpoint.identity_file}"
[[daemon]]
address = "{endpoint.address}"
host_keys = {list(endpoint.host_keys)!r}
[defaults]
users = ["*"]
""")

    def start(self) -> AgentProcess:
        self.begin()
        wait_until(lambda: self.known() >= self._keys, "the agent has its keys", 60)
        return self

    def begin(self) -> None:
        """Start it without waiting."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hsmd.cli", "agent", "run", "--config", str(self.config)],
                stdout=log,
                stderr=log,
            )

    def known(self) -> int:
        """How many keys it shows on its first page; -1 if it does not answer."""
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            with Client.connect(AgentEndpoint(self.socket)) as agent:
                return len(agent.control(KeyList(limit=500), timeout_s=5).keys)
        except HsmdError:
            return -1

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        finally:
            self.process.kill()
            self.process.wait()

    # --- what it holds ---

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    @property
    def rss(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )


@contextmanager
def running_agent(directory: Path, daemon: Daemon, client: str, *, keys: int = 1) -> Iterator[AgentProcess]:
    agent = AgentProcess(directory, daemon, client, keys=keys)
    try:
        yield agent.start()
    finally:
        agent.stop()
