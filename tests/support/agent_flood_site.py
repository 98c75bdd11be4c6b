"""Two agents side by side, floods at the one or the other by one local user, and what another user feels of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from hsmd.client import AgentEndpoint, Client
from hsmd.errors import HsmdError
from hsmd.protocol.messages import WhoAmI
from hsmd.purposes import Purpose
from tests.support.agent_floods import KINDS
from tests.support.agent_process import AgentProcess, running_agent
from tests.support.daemon import WEB, running_daemon
from tests.support.tls_bytes import P256, TLS13

ROOT = Path(__file__).parents[2]
FLOODER = 65534
"""The user that floods, if the tests run as root."""
TIMEOUT_S = 5.0


class AgentFloodSite:
    """The agents of two front ends of two daemons, of which one local user floods one."""

    kinds = KINDS

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o755)
        self._stack = ExitStack()
        self._watched, self._key, self._flooded_key = self._agent(directory / "watched")
        self._other, _, self._other_key = self._agent(directory / "other")

    def _agent(self, directory: Path) -> tuple[AgentProcess, bytes, bytes]:
        """An agent, a key of it for the user that is watched, and one for the user that floods."""
        daemon = self._stack.enter_context(running_daemon(directory / "daemon", workers=1))
        directory.chmod(0o755)
        key, flooded = (daemon.add_key(name, grant_to=(WEB,)) for name in ("mail", "flooded"))
        return (
            self._stack.enter_context(running_agent(directory / "agent", daemon, WEB, keys=2)),
            key,
            flooded,
        )

    def __enter__(self) -> AgentFloodSite:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def pid(self) -> int:
        return self._watched.process.pid

    def flood(
        self, kind: str, connections: int, *, elsewhere: bool
    ) -> AbstractContextManager[subprocess.Popen[str]]:
        if elsewhere:
            return _flood(kind, self._other, connections, self._other_key)
        return _flood(kind, self._watched, connections, self._flooded_key)

    async def latencies(self, seconds: float) -> list[float]:
        return await asyncio.to_thread(_latencies, self._watched, self._key, seconds)

    async def log_in(self) -> float:
        """Connect as another user, as a TLS server does for each operation."""
        began = time.monotonic()
        with Client.connect(AgentEndpoint(self._watched.socket)) as agent:
            await asyncio.to_thread(agent.control, WhoAmI(), timeout_s=TIMEOUT_S)
        return time.monotonic() - began


@contextmanager
def _flood(kind: str, agent: AgentProcess, connections: int, key: bytes) -> Iterator[subprocess.Popen[str]]:
    uid = FLOODER if os.geteuid() == 0 else os.geteuid()
    process = subprocess.Popen(
        [
            sys.executable, str(ROOT / "tests" / "support" / "agent_floods.py"),
            kind, str(agent.socket), str(uid), str(connections), key.hex(), "flooded",
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready", f"the flood {kind} did not begin"
        yield process
    finally:
        process.kill()
        process.communicate()


def _latencies(agent: AgentProcess, key: bytes, seconds: float) -> list[float]:
    """How long operations took that were made one after the other, each on a connection of its own; failures count as well."""
    took = []
    ends = time.monotonic() + seconds
    with Client.connect(AgentEndpoint(agent.socket)) as client:
        while (began := time.monotonic()) < ends:
            try:
                client.use_key(key, Purpose.TLS13_SERVER, P256, TLS13, timeout_s=TIMEOUT_S)
                took.append(time.monotonic() - began)
            except HsmdError:
                took.append(TIMEOUT_S)
    return sorted(took)
