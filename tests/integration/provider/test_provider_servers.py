"""The distribution's nginx, HAProxy and Apache, with key reference files in place of private keys."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.fake_agent import Agent, Fault
from tests.support.polling import wait_until
from tests.support.provider import Environment, Identity

HOST = "127.0.0.1"
NGINX, HAPROXY, APACHE = "/usr/sbin/nginx", "/usr/sbin/haproxy", "/usr/sbin/apache2"
APACHE_MODULES = "/usr/lib/apache2/modules"
RELOADS = 3
RSS_SLACK_KB = 512

Start = Callable[[Sequence[str | Path]], subprocess.Popen[bytes]]


def free_port() -> int:
    """A port that is not in use."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def handshake(
    port: int,
    identity: Identity,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ciphers: str | None = None,
) -> str:
    """Do a handshake and request a page; return the name of the cipher once the server has closed the connection.

    Raises ssl.SSLError or OSError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(identity.certificate)
    context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    with (
        socket.create_connection((HOST, port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert tls.recv(4096).startswith(b"HTTP/1")
        chosen = tls.cipher()
        assert chosen is not None
        wait_for_end(tls)
        return chosen[0]


def wait_for_end(tls: ssl.SSLSocket) -> None:
    """Read until the server has closed its socket, which it does after its close_notify."""
    while tls.recv(4096):
        pass
    with suppress(ConnectionResetError, BrokenPipeError), tls.unwrap() as raw:
        assert raw.recv(1) == b""


def is_listening(port: int) -> bool:
    """Whether a process accepts connections at the port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def children(pid: int) -> set[int]:
    """The process's children."""
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def open_files(pid: int) -> int:
    """Number of file descriptors of the process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kb(pid: int) -> int:
    """Resident memory of the process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for this signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (number - 1) & 1)


@pytest.fixture
def start(environment: Environment) -> Iterator[Start]:
    """Starts servers with the provider configured and ends them after the test."""
    running: list[subprocess.Popen[bytes]] = []
    configuration = environment.configuration(timeout_ms=1000)

    def run(command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        log = (environment.directory / "server.log").open("ab")
        variables = {**os.environ, "OPENSSL_CONF": str(configuration)}
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env=variables)
        log.close()
        running.append(process)
        return process

    yield run
    for process in running:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


class Nginx:
    """An nginx with one listener for each identity."""

    def __init__(self, directory: Path, identities: Sequence[Identity], start: Start) -> None:
        self.ports = {identity.name: free_port() for identity in identities}
        self.log = directory / "error.log"
        self.configuration = directory / "nginx.conf"
        self.configuration.write_text(self._text(directory, identities))
        self.process = start([*self.command, "-g", "daemon off;"])
        wait_until(lambda: all(is_listening(port) for port in self.ports.values()))
        wait_until(lambda: len(children(self.process.pid)) == 2)

    @property
    def command(self) -> list[str | Path]:
        """The nginx command line with this configuration and log."""
        return [NGINX, "-c", self.configuration, "-e", self.log]

    def _text(self, directory: Path, identities: Sequence[Identity]) -> str:
        temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"  {kind}_temp_path {directory}/{kind};\n" for kind in temporary)
        servers = "".join(
            f"  server {{ listen {HOST}:{self.ports[identity.name]} ssl; ssl_certificate {identity.certificate};"
            f" ssl_certificate_key {identity.reference}; return 200 yes; }}\n"
            for identity in identities
        )
        return (
            f"user {pwd.getpwuid(os.getuid()).pw_name};\nworker_processes 2;\npid {directory}/nginx.pid;\n"
            f"error_log {self.log} info;\nevents {{ worker_connections 64; }}\nhttp {{\n  access_log off;\n{paths}"
            "  ssl_protocols TLSv1.2 TLSv1.3;\n  ssl_ciphers DEFAULT;\n  ssl_session_tickets off;\n"
            f"  ssl_session_cache off;\n{servers}}}\n"
        )

    def reload(self) -> None:
        """Send SIGHUP; wait until the old workers have ended and two new ones run."""
        old = children(self.process.pid)
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(children(self.process.pid)) == 2 and not old & children(self.process.pid))


@pytest.fixture
def nginx(environment: Environment, identities: dict[str, Identity], start: Start) -> Nginx:
    """nginx, started without an agent unless the test has started one."""
    return Nginx(
        environment.directory, [identities[name] for name in ("rsa", "p256", "p384", "ed25519")], start
    )


def test_nginx_serves_every_kind_of_key(agent: Agent, nginx: Nginx, identities: dict[str, Identity]) -> None:
    for name, port in nginx.ports.items():
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            handshake(port, identities[name], version)
    chosen = handshake(nginx.ports["rsa"], identities["rsa"], ssl.TLSVersion.TLSv1_2, "AES128-SHA256")
    assert chosen == "AES128-SHA256"
    assert sorted(request.purpose for request in agent.requests) == [1] * 4 + [3] * 4 + [5]


def test_nginx_reloads_without_growing(agent: Agent, nginx: Nginx, identities: dict[str, Identity]) -> None:
    """nginx's own memory settles with the first reload; after it the master must not grow."""
    nginx.reload()
    files, memory = open_files(nginx.process.pid), resident_kb(nginx.process.pid)
    for _ in range(RELOADS):
        nginx.reload()
        handshake(nginx.ports["p256"], identities["p256"])
    assert open_files(nginx.process.pid) == files
    assert resident_kb(nginx.process.pid) - memory < RSS_SLACK_KB


def test_nginx_workers_do_not_leak(agent: Agent, nginx: Nginx, identities: dict[str, Identity]) -> None:
    """Two hundred signatures and fifty failures leave the workers' number of descriptors unchanged."""
    for _ in range(20):
        handshake(nginx.ports["p256"], identities["p256"])
    before = {pid: open_files(pid) for pid in children(nginx.process.pid)}
    for _ in range(200):
        handshake(nginx.ports["p256"], identities["p256"])
    agent.fault = Fault.CLOSE_AT_ONCE
    for _ in range(50):
        with pytest.raises((ssl.SSLError, OSError)):
            handshake(nginx.ports["p256"], identities["p256"])
    wait_until(lambda: {pid: open_files(pid) for pid in children(nginx.process.pid)} == before)


def test_nginx_starts_without_an_agent_and_names_the_cause(
    environment: Environment, nginx: Nginx, identities: dict[str, Identity]
) -> None:
    port, identity = nginx.ports["p256"], identities["p256"]
    with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
        handshake(port, identity)
    wait_until(lambda: "agent unreachable" in nginx.log.read_text())
    log = nginx.log.read_text()
    assert (
        f"hsmd::agent unreachable:key key-p256: cannot reach agent at {environment.socket}: there is no such socket"
        in log
    )
    with Agent(environment.socket, [identity.key]) as agent:
        handshake(port, identity)
        agent.error = (21, b"slow down")
        with pytest.raises(ssl.SSLError):
            handshake(port, identity)
        wait_until(lambda: "hsmd::overloaded:key key-p256: slow down" in nginx.log.read_text())
        agent.error = None
        handshake(port, identity)


def test_nginx_reports_what_is_wrong_with_a_reference(
    environment: Environment, nginx: Nginx, identities: dict[str, Identity]
) -> None:
    broken = environment.directory / "broken.ref"
    broken.write_text(identities["p256"].reference.read_text().replace("-----\nM", "-----\n!"))
    text = nginx.configuration.read_text()
    checked = environment.directory / "checked.conf"
    results = []
    for reference in (broken, identities["other"].reference):
        checked.write_text(text.replace(str(identities["p256"].reference), str(reference)))
        results.append(environment.run([NGINX, "-t", "-c", checked, "-e", "stderr"]))
    assert [result.returncode for result in results] == [1, 1]
    assert "hsmd::malformed key reference:not base64" in results[0].stderr
    assert "key values mismatch" in results[1].stderr


def combined(directory: Path, identity: Identity) -> Path:
    """Certificate and reference in one file, as HAProxy requires."""
    path = directory / f"{identity.name}.pem"
    path.write_text(identity.certificate.read_text() + identity.reference.read_text())
    return path


def haproxy_configuration(directory: Path, port: int, certificate: Path) -> Path:
    """A configuration with one frontend that answers requests itself, and an administrator's socket."""
    path = directory / "haproxy.cfg"
    path.write_text(
        f"global\n  stats socket {directory}/admin.sock level admin\n  nbthread 2\n  maxconn 100\n"
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n"
        f"frontend f\n  bind {HOST}:{port} ssl crt {certificate} ssl-min-ver TLSv1.2\n  http-request return status 200\n"
    )
    return path


def command(directory: Path, text: str) -> str:
    """Run one command on the administrator's socket."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(f"{directory}/admin.sock")
        admin.sendall(text.encode())
        admin.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: admin.recv(4096), b"")).decode()


def test_haproxy_with_reload_and_hot_swap(
    environment: Environment, agent: Agent, identities: dict[str, Identity], start: Start
) -> None:
    """Master and worker: handshakes, a reload by SIGUSR2, and a reference replaced at run time."""
    directory, port = environment.directory, free_port()
    rsa, p256 = identities["rsa"], identities["p256"]
    certificate = combined(directory, rsa)
    process = start([HAPROXY, "-W", "-f", haproxy_configuration(directory, port, certificate)])
    # The worker listens before the master handles signals, which it ignores until then.
    wait_until(lambda: "Loading success" in (directory / "server.log").read_text())
    wait_until(lambda: catches(process.pid, signal.SIGUSR2))
    handshake(port, rsa)
    handshake(port, rsa, ssl.TLSVersion.TLSv1_2, "AES128-SHA256")
    old = children(process.pid)
    process.send_signal(signal.SIGUSR2)
    wait_until(lambda: bool(children(process.pid)) and not old & children(process.pid))
    wait_until(lambda: is_listening(port))
    handshake(port, rsa)
    payload = p256.certificate.read_text() + p256.reference.read_text()
    assert "Transaction created" in command(directory, f"set ssl cert {certificate} <<\n{payload}\n")
    assert "Success" in command(directory, f"commit ssl cert {certificate}\n")
    handshake(port, p256)
    assert [request.purpose for request in agent.requests] == [1, 5, 1, 1]


def apache_configuration(directory: Path, ports: dict[str, int], identities: dict[str, Identity]) -> Path:
    """A configuration with one virtual host for each identity, threads, and an empty page."""
    (directory / "pages").mkdir()
    (directory / "pages" / "index.html").write_text("yes")
    modules = "".join(
        f"LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so\n"
        for name in ("mpm_event", "authz_core", "dir", "socache_shmcb", "ssl")
    )
    hosts = "".join(
        f"Listen {HOST}:{port}\n<VirtualHost {HOST}:{port}>\n  SSLEngine on\n"
        f"  SSLCertificateFile {identities[name].certificate}\n  SSLCertificateKeyFile {identities[name].reference}\n"
        f"</VirtualHost>\n"
        for name, port in ports.items()
    )
    path = directory / "apache.conf"
    path.write_text(
        f"ServerName localhost\nServerRoot {directory}\nPidFile {directory}/apache.pid\nErrorLog {directory}/error.log\n"
        f"{modules}DefaultRuntimeDir {directory}\nDocumentRoot {directory}/pages\nStartServers 1\n"
        f"SSLSessionTickets off\nSSLSessionCache none\nSSLCipherSuite DEFAULT\nUser nobody\n{hosts}"
    )
    return path


def give_access(socket_file: Path, base: Path) -> None:
    """Apache's workers never run as root: if the test does, give them access through pytest's directories to the agent."""
    socket_file.chmod(0o666)
    for directory in [base.parent, base, *socket_file.relative_to(base).parents]:
        made = base / directory
        made.chmod(made.stat().st_mode | 0o011)


def test_apache_with_a_graceful_restart(
    environment: Environment,
    agent: Agent,
    identities: dict[str, Identity],
    start: Start,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Apache loads and unloads its TLS module before it serves, and again at each restart."""
    ports = {name: free_port() for name in ("rsa", "p256", "ed25519")}
    configuration = apache_configuration(environment.directory, ports, identities)
    give_access(environment.socket, tmp_path_factory.getbasetemp())
    process = start([APACHE, "-DFOREGROUND", "-f", configuration])
    wait_until(lambda: all(is_listening(port) for port in ports.values()))
    for _ in range(2):
        for name, port in ports.items():
            handshake(port, identities[name])
            handshake(port, identities[name], ssl.TLSVersion.TLSv1_2)
        old = children(process.pid)
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda old=old: bool(children(process.pid)) and not old & children(process.pid))
    assert sorted(request.purpose for request in agent.requests) == [1] * 6 + [3] * 6
