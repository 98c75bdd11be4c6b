"""A certificate authority in SoftHSM certifies nginx, HAProxy, PostgreSQL, curl and Python, and a revoked client is refused.

Each has a key of its own in a file, as `openssl` makes it; servers demand client certificates and look at the revocation list.
"""

from __future__ import annotations

import http.server
import os
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from hsmd.protocol import messages
from tests.support.daemon import Daemon, running_daemon
from tests.support.network import free_port
from tests.support.polling import wait_until
from tests.support.postgresql import running_cluster
from tests.support.processes import program

pytestmark = pytest.mark.timeout(180)
HOST = "www.example.com"


@dataclass(frozen=True)
class Site:
    """Files of the authority and of all that it certifies, and its daemon."""

    directory: Path
    daemon: Daemon

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def certify(self, name: str, profile: str, **names: object) -> messages.IssuedInfo:
        """`name.key`, and `name.pem` with its chain."""
        command = [
            "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", self.path(f"{name}.key"), "-out", self.path(f"{name}.csr"),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        csr = (self.directory / f"{name}.csr").read_text()
        issued = self.daemon.ask(messages.CaIssue("issuing", profile, request=csr, **names))  # type: ignore[arg-type]
        (self.directory / f"{name}.pem").write_text(issued.chain)
        found: messages.IssuedInfo = issued.certificate
        return found

    def write_lists(self) -> None:
        lists = [self.daemon.ask(messages.CaCrl(name)).pem for name in ("root", "issuing")]
        (self.directory / "lists.pem").write_text("".join(lists))

    def context(self, client: str) -> ssl.SSLContext:
        """What a Python client uses."""
        context = ssl.create_default_context(cafile=self.path("root.pem"))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(self.path(f"{client}.pem"), self.path(f"{client}.key"))
        return context


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("authority")
    os.chmod(directory, 0o755)
    with running_daemon(directory / "daemon") as daemon:
        limits = messages.AuthorityLimits(
            ["server", "client"],
            ["example.com"],
            ["127.0.0.0/8"],
            common_names=["alice", "mallory"],
            path_length=2,
        )
        daemon.ask(messages.CaInit("root", "Example root 1", limits))
        below = messages.AuthorityLimits(
            ["server", "client"], ["example.com"], ["127.0.0.0/8"], common_names=["alice", "mallory"], path_length=1,
            authority_s=1_000 * 86_400,
        )  # fmt: skip
        daemon.ask(messages.CaInit("issuing", "Example issuing 1", below))
        daemon.ask(messages.CaIssue("root", "issuing", key="issuing"))
        made = Site(directory, daemon)
        (directory / "root.pem").write_text(daemon.ask(messages.CaShow("root")).chain)
        for server in ("nginx", "haproxy", "postgresql", "python"):
            made.certify(server, "server", dns_names=[HOST], ip_addresses=["127.0.0.1"])
        made.certify("alice", "client", common_name="alice", dns_names=["alice.example.com"])
        mallory = made.certify("mallory", "client", common_name="mallory", dns_names=["mallory.example.com"])
        daemon.ask(messages.CaRevoke("issuing", mallory.serial, "key-compromise"))
        made.write_lists()
        yield made


@contextmanager
def running(*command: str, port: int, what: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: process.poll() is not None or answers(port), f"{what} listens", 15)
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        yield
    finally:
        process.terminate()
        process.wait(15)
        if process.stderr:
            process.stderr.close()


def answers(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nginx(site: Site) -> Iterator[int]:
    port = free_port()
    (site.directory / "nginx.conf").write_text(f"""
daemon off; pid {site.path("nginx.pid")}; error_log stderr; worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {site.path("t1")}; proxy_temp_path {site.path("t2")}; fastcgi_temp_path {site.path("t3")};
  uwsgi_temp_path {site.path("t4")}; scgi_temp_path {site.path("t5")};
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {site.path("nginx.pem")}; ssl_certificate_key {site.path("nginx.key")};
    ssl_client_certificate {site.path("root.pem")}; ssl_verify_client on; ssl_verify_depth 3; ssl_crl {site.path("lists.pem")};
    location / {{ return 200 "$ssl_client_s_dn"; }}
  }}
}}
""")
    with running(
        program("nginx"), "-c", site.path("nginx.conf"), "-p", str(site.directory), port=port, what="nginx"
    ):
        yield port


@contextmanager
def haproxy(site: Site) -> Iterator[int]:
    port = free_port()
    both = (site.directory / "haproxy.pem").read_text() + (site.directory / "haproxy.key").read_text()
    (site.directory / "haproxy-both.pem").write_text(both)
    (site.directory / "haproxy.cfg").write_text(f"""
defaults
  mode http
  timeout client 5s
  timeout connect 5s
  timeout server 5s
frontend tls
  bind 127.0.0.1:{port} ssl crt {site.path("haproxy-both.pem")} ca-file {site.path("root.pem")} verify required crl-file {site.path("lists.pem")}
  http-request return status 200 content-type text/plain lf-string "%[ssl_c_s_dn(CN)]"
""")
    with running(program("haproxy"), "-db", "-f", site.path("haproxy.cfg"), port=port, what="haproxy"):
        yield port


@contextmanager
def python(site: Site) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            subject = dict(pair[0] for pair in self.connection.getpeercert()["subject"])  # type: ignore[attr-defined]
            body = subject["commonName"].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=site.path("root.pem"))
    context.load_cert_chain(site.path("python.pem"), site.path("python.key"))
    context.load_verify_locations(site.path("lists.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN | ssl.VERIFY_X509_STRICT

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments: object) -> None:
            """A handshake that fails is what the test asks for."""

    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(10)


def curl(site: Site, port: int, client: str) -> subprocess.CompletedProcess[str]:
    command = [
        program("curl"), "--silent", "--show-error", "--cacert", site.path("root.pem"), "--cert", site.path(f"{client}.pem"),
        "--key", site.path(f"{client}.key"), "--resolve", f"{HOST}:{port}:127.0.0.1", f"https://{HOST}:{port}/",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("server", [nginx, haproxy, python], ids=lambda server: server.__name__)
def test_web_servers_and_clients_are_certified(site: Site, server: object) -> None:
    with server(site) as port:  # type: ignore[operator]
        done = curl(site, port, "alice")
        assert (done.returncode, "alice" in done.stdout) == (0, True), done.stderr
        with urllib.request.urlopen(
            f"https://127.0.0.1:{port}/", context=site.context("alice"), timeout=10
        ) as answer:
            assert b"alice" in answer.read()
        refused = curl(site, port, "mallory")
        assert refused.returncode != 0 or "400" in refused.stdout, refused.stdout
        assert "mallory" not in refused.stdout


def test_a_database_and_its_users_are_certified(site: Site) -> None:
    port = free_port()

    def prepare(data: Path) -> Mapping[str, object]:
        for name in ("postgresql.pem", "postgresql.key", "root.pem", "lists.pem"):
            (data / name).write_bytes((site.directory / name).read_bytes())
            (data / name).chmod(0o600)
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("hostssl all all 127.0.0.1/32 cert\n")
        lines = (data / "pg_hba.conf").read_text().splitlines()
        kept = [line for line in lines if not line.startswith("host ")]
        (data / "pg_hba.conf").write_text("\n".join(kept) + "\n")
        return {
            "listen_addresses": "127.0.0.1", "port": port, "ssl": "on", "ssl_cert_file": "postgresql.pem",
            "ssl_key_file": "postgresql.key", "ssl_ca_file": "root.pem", "ssl_crl_file": "lists.pem",
        }  # fmt: skip

    def connect(user: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=HOST, hostaddr="127.0.0.1", port=port, user=user, dbname="postgres", sslmode="verify-full",
            sslrootcert=site.path("root.pem"), sslcert=site.path(f"{user}.pem"), sslkey=site.path(f"{user}.key"),
        )  # fmt: skip

    with ExitStack() as stack:
        cluster = stack.enter_context(running_cluster(prepare))
        with psycopg.connect(
            host=str(cluster.sockets), port=port, user="postgres", dbname="postgres", autocommit=True
        ) as administration:
            administration.execute("CREATE USER alice")
            administration.execute("CREATE USER mallory")
        with connect("alice") as connection:
            row = connection.execute(
                "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            ).fetchone()
            assert row == ("alice", True)
        with pytest.raises(psycopg.OperationalError):
            connect("mallory")
