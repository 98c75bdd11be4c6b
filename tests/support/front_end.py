"""The programs of a front end: a real agent, and nginx with the provider."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hsmd.client import AgentEndpoint, Client
from hsmd.errors import HsmdError
from hsmd.protocol.messages import ClientAdd, WhoAmI
from hsmd.provider import openssl_configuration
from tests.support.installed_daemon import Daemon
from tests.support.network import free_port
from tests.support.polling import wait_until
from tests.support.processes import Process, children, hsmd, program, run

HOST = "127.0.0.1"
TIMEOUT_MS = 500
"""The provider's default deadline."""
WORKERS = 4


def own_user() -> str:
    """The user that runs the tests."""
    return pwd.getpwuid(os.geteuid()).pw_name


def server_user() -> str:
    """The user of nginx's workers."""
    return "www-data" if os.geteuid() == 0 else own_user()


class Agent:
    """An agent with its own client name at the daemon, set up with `hsmd agent init`."""

    def __init__(self, directory: Path, daemon: Daemon, client: str) -> None:
        self.directory, self.client = directory, client
        self.config, self.socket, self.keys = (
            directory / name for name in ("agent.toml", "agent.sock", "keys")
        )
        self.log = directory / "agent.log"
        self._process: Process | None = None
        directory.mkdir(mode=0o755)
        allowed = [word for user in sorted({own_user(), server_user()}) for word in ("--allow", user)]
        made = run(
            hsmd(
                "agent",
                "init",
                "--daemon",
                daemon.network.address,
                "--host-key",
                daemon.host_key,
                "--client",
                client,
                "--config",
                self.config,
                "--socket",
                self.socket,
                *allowed,
                "--json",
            )
        )
        assert made.returncode == 0, made.stderr
        directory.chmod(0o755)
        if server_user() != own_user():
            self._give_access(server_user())
        daemon.ask(ClientAdd(client, "front-end", json.loads(made.stdout)["public_key"]))

    def _give_access(self, user: str) -> None:
        """Give the group of nginx's workers access to the socket."""
        lines = [
            line
            for line in self.config.read_text().splitlines()
            if not line.lstrip("#").startswith("group =")
        ]
        mode_at = next(at for at, line in enumerate(lines) if line.startswith("mode ="))
        lines.insert(mode_at + 1, f'group = "{user}"')
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, *, connected: bool = True) -> None:
        """Start it; return when it listens, and by default is connected to its daemon."""
        self._process = Process(hsmd("agent", "run", "--config", self.config), self.log)
        wait_until(self._ready if connected else self._listens, f"agent {self.client} is ready", 20)

    def _ready(self) -> bool:
        self.process.check("hsmd agent run")
        return self.connected

    def _listens(self) -> bool:
        self.process.check("hsmd agent run")
        return self.answer() is not None

    @property
    def process(self) -> Process:
        """The agent's process."""
        assert self._process is not None, "the agent does not run"
        return self._process

    @property
    def running(self) -> bool:
        """Has it been started, and not stopped?"""
        return self._process is not None and self._process.running

    @property
    def connected(self) -> bool:
        """Whether it answers and is connected to a daemon."""
        return bool(self.answer())

    def answer(self) -> str | None:
        """The daemon it reports to be connected to, empty for none; None if it does not answer."""
        with suppress(HsmdError), Client.connect(AgentEndpoint(self.socket)) as agent:
            return str(agent.control(WhoAmI(), timeout_s=5.0).daemon)
        return None

    def stop(self) -> None:
        """End it with SIGTERM."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def reload(self) -> None:
        """Make it reload its configuration."""
        self.process.signal(signal.SIGHUP)

    def export(self, key: str) -> tuple[Path, Path]:
        """Export a key with `hsmd agent export`; return the files of its certificate chain and key reference."""
        done = run(hsmd("agent", "export", key, "--config", self.config, "--out", self.keys, "--json"))
        assert done.returncode == 0, done.stderr
        self.keys.chmod(0o755)
        return self.keys / f"{key}.pem", self.keys / f"{key}.key"

    def openssl(self, module: Path, timeout_ms: int = TIMEOUT_MS) -> Path:
        """The OpenSSL configuration of servers that use this agent."""
        path = self.directory / f"openssl-{timeout_ms}.cnf"
        path.write_text(openssl_configuration(str(self.socket), timeout_ms, module))
        return path


@dataclass(frozen=True, slots=True)
class Served:
    """A name that nginx serves, with its certificate chain and the file that it loads as the key."""

    name: str
    chain: Path
    key: Path


class Nginx:
    """nginx with all names on one port; `extra` is added to each server block."""

    def __init__(
        self,
        directory: Path,
        openssl: Path,
        served: Iterable[Served],
        *,
        workers: int = WORKERS,
        host: str = HOST,
        extra: str = "",
    ) -> None:
        directory.mkdir(mode=0o755, exist_ok=True)
        self.directory, self.openssl, self.host = directory, openssl, host
        self.port = free_port(host)
        self.log = directory / "error.log"
        self.configuration = directory / "nginx.conf"
        self.workers = workers
        self.configuration.write_text(self._text(list(served), extra))
        self._process: Process | None = None

    @property
    def command(self) -> list[str | Path]:
        """The nginx command line with this configuration and log."""
        return [program("nginx"), "-p", self.directory, "-c", self.configuration, "-e", self.log]

    def _text(self, served: Sequence[Served], extra: str) -> str:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"  {kind}_temp_path {self.directory}/{kind};\n" for kind in kinds)
        servers = "".join(
            f"  server {{ listen {self.host}:{self.port} ssl; server_name {each.name}; ssl_certificate {each.chain};"
            f" ssl_certificate_key {each.key}; {extra} location / {{ return 200 {each.name}; }} }}\n"
            for each in served
        )
        return (
            f"user {server_user()};\nworker_processes {self.workers};\npid {self.directory}/nginx.pid;\ndaemon off;\n"
            f"error_log {self.log} info;\nevents {{ worker_connections 512; }}\nhttp {{\n  access_log off;\n{paths}"
            "  ssl_protocols TLSv1.2 TLSv1.3;\n  ssl_ciphers DEFAULT;\n  ssl_session_tickets off;\n"
            f"  ssl_session_cache off;\n{servers}}}\n"
        )

    def start(self) -> None:
        """Start it; return when all workers run and it accepts connections."""
        self._process = Process(
            self.command, self.directory / "output", variables={"OPENSSL_CONF": str(self.openssl)}
        )
        wait_until(self._serves, "nginx serves")

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.running, self.log.read_text() + (self.directory / "output").read_text()
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0 and len(self.pids()) == self.workers + 1

    @property
    def running(self) -> bool:
        """Has it been started, and not stopped?"""
        return self._process is not None and self._process.running

    def pids(self) -> list[int]:
        """Master and workers."""
        assert self._process is not None
        return [self._process.pid, *children(self._process.pid)]

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def reload(self) -> None:
        """Make it reload certificates and keys; return when all workers have been replaced."""
        assert self._process is not None
        old = set(children(self._process.pid))
        self._process.signal(signal.SIGHUP)
        wait_until(lambda: self._serves() and not old & set(self.pids()), "nginx has reloaded")

    def check(self) -> tuple[int, str]:
        """Run `nginx -t`; return exit status and output."""
        done = run(
            [program("nginx"), "-t", "-p", self.directory, "-c", self.configuration, "-e", "stderr"],
            OPENSSL_CONF=str(self.openssl),
        )
        return done.returncode, done.stderr

    def wait_for_log(self, text: str, since: int = 0) -> str:
        """Wait for a line with this text in the error log after byte `since`; AssertionError with the log if there is none."""
        found: list[str] = []

        def there() -> bool:
            lines = self.log.read_bytes()[since:].decode(errors="replace").splitlines()
            found[:] = [line for line in lines if text in line]
            return bool(found)

        try:
            wait_until(there, text, 5)
        except AssertionError:
            raise AssertionError(
                f"{text!r} is not in nginx's log:\n{self.log.read_bytes()[since:].decode()}"
            ) from None
        return found[0]
