"""A fleet of real servers and clients, each with a node beside it that keeps its files; all of them authenticate each other.

Servers are nginx, HAProxy, Apache, PostgreSQL and Python; their settings are those that `hsmd node init` prints, and they are
reloaded by a script, as there is no systemd for them here.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hsmd.node import config as configuration
from hsmd.node.programs import ANCHORS, CHAIN, COMBINED, KEY, LISTS, PROGRAMS
from hsmd.protocol import messages
from tests.support import processes
from tests.support.daemon import Daemon
from tests.support.edge_prober import Edge
from tests.support.network import free_port
from tests.support.polling import wait_until
from tests.support.postgresql import running_cluster
from tests.support.processes import Process
from tests.support.vault import add_client

AUTHORITY = "root"
DOMAIN = "example.com"
_APACHE_MODULES = "/usr/lib/apache2/modules"
AS_ROOT = os.geteuid() == 0
"""PostgreSQL runs as another user then, which the files have to belong to."""
_PYTHON_SERVER = Path(__file__).with_name("node_python_server.py")


@dataclass(frozen=True)
class FleetNode:
    """A node: its configuration file, and for a server where it listens."""

    name: str
    kind: str
    directory: Path
    port: int = 0

    @property
    def host(self) -> str:
        return f"{self.name}.{DOMAIN}"

    @property
    def file(self) -> Path:
        return self.directory / "node.toml"

    @property
    def files(self) -> Path:
        return self.directory / "files"

    @property
    def current(self) -> Path:
        return self.files / "current"

    @property
    def reload(self) -> Path:
        """A script that reloads the program, if it runs."""
        return self.directory / "reload"


class Fleet:
    """Nodes by name; `edges` are all pairs of a client and a server."""

    def __init__(self, daemon: Daemon, directory: Path, term_s: int) -> None:
        self.daemon = daemon
        self.directory = directory
        self.nodes: dict[str, FleetNode] = {}
        self._term_s = term_s
        limits = messages.AuthorityLimits(["server-client"], [DOMAIN], path_length=1)
        daemon.ask(messages.CaInit(AUTHORITY, "Example CA 1", limits))
        daemon.ask(messages.CaCrl(AUTHORITY))

    def add(self, name: str, kind: str) -> FleetNode:
        """A node that is allowed and configured; its program does not run yet."""
        directory = self.directory / name
        directory.mkdir(mode=0o755)
        node = FleetNode(name, kind, directory, free_port() if kind in SERVERS else 0)
        add_client(self.daemon, name, "node")
        self.daemon.ask(
            messages.CaAllow(AUTHORITY, name, "server-client", dns_names=[node.host], term_s=self._term_s)
        )
        node.reload.write_text("#!/bin/sh\nexit 0\n")
        node.reload.chmod(0o755)
        self.nodes[name] = node
        return node

    def configure(self, node: FleetNode, probes: list[FleetNode]) -> None:
        """Write the configuration of a node; it probes itself or these servers."""
        owner = 'owner = "postgres"\n' if node.kind == "postgresql" and AS_ROOT else ""
        host, port = self.daemon.address
        text = f"""
[node]
client = "{node.name}"
identity = "{self.daemon.directory / node.name}"
state = "{node.directory / "state"}"
[certificate]
authority = "{AUTHORITY}"
[program]
kind = "{node.kind if node.kind in PROGRAMS else "python"}"
files = "{node.files}"
{owner}command = ["{node.reload}"]
{"".join(_probe(each, own=each is node) for each in probes)}
[[daemon]]
address = "{host}:{port}"
host_keys = ["{self.daemon.notice["host_key"]}"]
"""
        node.file.write_text(text)
        configuration.load(node.file)

    @property
    def servers(self) -> list[FleetNode]:
        return [node for node in self.nodes.values() if node.port]

    def edges(self) -> list[Edge]:
        """Every client with every server, and every server with itself."""
        return [
            Edge(node.name, node.current, server.name, server.port, server.host, SPEAKS[server.kind])
            for node in self.nodes.values()
            for server in self.servers
            if not node.port or node is server
        ]


SPEAKS = {
    "nginx": "http",
    "haproxy": "http",
    "apache": "http",
    "postgresql": "postgresql",
    "python": "tls",
}


def _probe(server: FleetNode, *, own: bool) -> str:
    whose = "own" if own else "counterpart"
    return (
        f'[[probe]]\nconnect = "127.0.0.1:{server.port}"\nname = "{server.host}"\ncertificate = "{whose}"\n'
        f'speaks = "{SPEAKS[server.kind]}"\n'
    )


def running(node: FleetNode, resources: ExitStack) -> None:
    """Run the program of a node, whose files are there, until `resources` end; then it can be reloaded."""
    resources.enter_context(SERVERS[node.kind](node))


# --- the servers ---


def _script(node: FleetNode, *command: str | Path) -> None:
    """What reloads a server."""
    staged = node.reload.with_suffix(".new")
    staged.write_text(f"#!/bin/sh\n{shlex.join(map(str, command))}\n")
    staged.chmod(0o755)
    staged.replace(node.reload)


@contextmanager
def _process(node: FleetNode, command: list[str]) -> Iterator[Process]:
    process = Process(command, node.directory / "log")
    try:

        def listens() -> bool:
            process.check(node.name)
            return _answers(node.port)

        wait_until(listens, f"{node.name} listens", 20)
        yield process
    finally:
        process.stop()


def _answers(port: int) -> bool:
    import socket

    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _nginx(node: FleetNode) -> Iterator[None]:
    base, files = node.directory, node.current
    (base / "nginx.conf").write_text(f"""
daemon off; pid {base}/nginx.pid; error_log stderr; worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {base}/t1; proxy_temp_path {base}/t2; fastcgi_temp_path {base}/t3; uwsgi_temp_path {base}/t4;
  scgi_temp_path {base}/t5;
  server {{
    listen 127.0.0.1:{node.port} ssl;
    {for_clients_with_certificates(PROGRAMS["nginx"].settings(files, True))}
    location / {{ return 200 "$ssl_client_verify"; }}
  }}
}}
""")
    command = [processes.program("nginx"), "-c", f"{base}/nginx.conf", "-p", str(base)]
    _script(node, *command, "-s", "reload")
    with _process(node, command):
        yield


@contextmanager
def _haproxy(node: FleetNode) -> Iterator[None]:
    base, files = node.directory, node.current
    (base / "haproxy.cfg").write_text(f"""
global
  stats socket {base}/stats level admin expose-fd listeners
defaults
  mode http
  timeout client 5s
  timeout connect 5s
  timeout server 5s
frontend tls
  bind 127.0.0.1:{node.port} ssl crt {files / COMBINED} verify required ca-file {files / ANCHORS} crl-file {files / LISTS}
  http-request return status 200 content-type text/plain string ok
""")
    command = [
        processes.program("haproxy"),
        "-W",
        "-db",
        "-f",
        f"{base}/haproxy.cfg",
        "-p",
        f"{base}/haproxy.pid",
    ]
    with _process(node, command) as process:
        _script(node, "kill", "-USR2", str(process.pid))
        yield


@contextmanager
def _apache(node: FleetNode) -> Iterator[None]:
    base, files = node.directory, node.current
    (base / "pages").mkdir()
    (base / "pages" / "index.html").write_text("yes")
    modules = "".join(
        f"LoadModule {name}_module {_APACHE_MODULES}/mod_{name}.so\n"
        for name in ("mpm_event", "authz_core", "dir", "socache_shmcb", "ssl")
    )
    (base / "apache.conf").write_text(
        f"ServerName localhost\nServerRoot {base}\nPidFile {base}/apache.pid\nErrorLog {base}/error.log\n{modules}"
        f"DefaultRuntimeDir {base}\nDocumentRoot {base}/pages\nStartServers 1\nSSLSessionCache none\nUser {_user()}\n"
        f"Listen 127.0.0.1:{node.port}\n<VirtualHost 127.0.0.1:{node.port}>\nSSLEngine on\n"
        f"{for_clients_with_certificates(PROGRAMS['apache'].settings(files, True))}\n</VirtualHost>\n"
    )
    command = [processes.program("apache2"), "-f", f"{base}/apache.conf"]
    _script(node, *command, "-k", "graceful")
    with _process(node, [*command, "-D", "FOREGROUND"]):
        yield


@contextmanager
def _postgresql(node: FleetNode) -> Iterator[None]:
    where = node.directory / "data"

    def prepare(data: Path) -> Mapping[str, object]:
        where.symlink_to(data)
        (data / "pg_hba.conf").write_text(
            "local all all trust\nhostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n"
        )
        files = node.current
        return {
            "listen_addresses": "127.0.0.1", "port": node.port, "ssl": "on", "ssl_cert_file": files / CHAIN,
            "ssl_key_file": files / KEY, "ssl_ca_file": files / ANCHORS, "ssl_crl_file": files / LISTS,
        }  # fmt: skip

    with running_cluster(prepare):
        pid = (where / "postmaster.pid").read_text().splitlines()[0]
        _script(node, "kill", "-HUP", pid)
        yield


@contextmanager
def _python(node: FleetNode) -> Iterator[None]:
    command = [sys.executable, str(_PYTHON_SERVER), str(node.port), str(node.current)]
    with _process(node, command) as process:
        _script(node, "kill", "-HUP", str(process.pid))
        yield


SERVERS: dict[str, Callable[[FleetNode], object]] = {
    "nginx": _nginx,
    "haproxy": _haproxy,
    "apache": _apache,
    "postgresql": _postgresql,
    "python": _python,
}  # type: ignore[dict-item]


def _user() -> str:
    return (
        "nobody"
        if AS_ROOT
        else subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    )


def for_clients_with_certificates(settings: str) -> str:
    """The lines that `hsmd node init` prints, with those for clients with certificates in force."""
    return re.sub(r"^#(?=ssl|SSL)", "", settings, flags=re.MULTILINE)
