"""nginx, HAProxy and Apache as they keep sessions: by default, in a cache, or under a ticket key from a file.

Each has the steps by which its program can be made to use changed files. A step has been taken when no process of before
can accept a connection any more.
"""

from __future__ import annotations

import base64
import os
import pwd
import secrets
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.network import free_port
from tests.support.polling import wait_until
from tests.support.processes import Process, children, program
from tests.support.resumption import HOST, Files

APACHE_MODULES = Path("/usr/lib/apache2/modules")


class Server:
    """A server program in the foreground. `setup`: `default`, `cache` or `key-file`."""

    def __init__(self, files: Files, setup: str) -> None:
        self.files, self.setup, self.directory = files, setup, files.directory
        self.port = free_port(HOST)
        self._write_ticket_key()
        self.configure()
        self.start()

    @property
    def steps(self) -> Mapping[str, Callable[[], None]]:
        return {"reload": self.reload, "restart": self.restart, "new ticket key": self.new_ticket_key}

    def start(self) -> None:
        self._process = Process(self.command(), self.directory / "server.log")
        try:
            wait_until(self._serves, f"{type(self).__name__} listens")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._process.stop()

    def restart(self) -> None:
        self.close()
        self.start()

    def reload(self) -> None:
        self.signal_and_wait(signal.SIGHUP)

    def new_ticket_key(self) -> None:
        """Replace the file of the ticket key, and reload."""
        self._write_ticket_key()
        self.reload()

    def signal_and_wait(self, number: signal.Signals) -> None:
        """Wait until all worker processes of before have ended, and others have come."""
        old = set(children(self._process.pid))
        self._process.signal(number)
        wait_until(lambda: self._workers() and not old & set(children(self._process.pid)), "new workers")
        wait_until(self._serves, "it listens again")

    def configure(self) -> None:
        raise NotImplementedError

    def command(self) -> list[str | Path]:
        raise NotImplementedError

    def _write_ticket_key(self) -> None:
        (self.directory / "ticket.key").write_bytes(secrets.token_bytes(48))

    def _workers(self) -> bool:
        return bool(children(self._process.pid))

    def _serves(self) -> bool:
        self._process.check(type(self).__name__)
        return self._workers() and is_listening(self.port)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


class Nginx(Server):
    """`cache`: a cache that its workers share, and no tickets. `both`: with tickets."""

    def configure(self) -> None:
        path = self.files.path
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {path(kind)}; " for kind in kinds)
        path("nginx.conf").write_text(
            f"user {pwd.getpwuid(os.getuid()).pw_name}; worker_processes 1; pid {path('nginx.pid')}; events {{}}\n"
            f"http {{ access_log off; {temporary}\nserver {{ {self.server_lines()} }} }}\n"
        )

    def server_lines(self) -> str:
        path = self.files.path
        lines = {
            "default": "",
            "cache": "ssl_session_cache shared:tls:1m; ssl_session_tickets off;",
            "both": "ssl_session_cache shared:tls:1m;",
            "key-file": f"ssl_session_ticket_key {path('ticket.key')};",
        }
        return (
            f"listen {HOST}:{self.port} ssl; ssl_protocols TLSv1.2 TLSv1.3; {lines[self.setup]}\n"
            f"ssl_certificate {path('chain.pem')}; ssl_certificate_key {path('key.pem')}; ssl_verify_client on;\n"
            f"ssl_client_certificate {path('anchors.pem')}; ssl_crl {path('lists.pem')}; return 200 yes;"
        )

    def command(self) -> list[str | Path]:
        return [program("nginx"), "-c", self.files.path("nginx.conf"), "-e", "stderr", "-g", "daemon off;"]


class Haproxy(Server):
    """Master and worker. `cache`: no tickets; its cache is there in any case."""

    loaded: tuple[tuple[str, str], ...] = (
        ("cert", "combined.pem"),
        ("ca-file", "anchors.pem"),
        ("crl-file", "lists.pem"),
    )

    @property
    def steps(self) -> Mapping[str, Callable[[], None]]:
        return {**super().steps, "run-time": self.commit}

    def configure(self) -> None:
        self.files.path("haproxy.cfg").write_text(
            f"global\n  stats socket {self.files.path('admin.sock')} level admin\n  nbthread 1\n  maxconn 100\n"
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n  retries 0\n"
            f"{self.proxy_lines()}"
        )

    def proxy_lines(self) -> str:
        path = self.files.path
        words = {
            "default": "",
            "cache": "no-tls-tickets",
            "key-file": f"tls-ticket-keys {path('ticket.key')}",
        }
        return (
            f"frontend f\n  bind {HOST}:{self.port} ssl crt {path('combined.pem')} verify required"
            f" ca-file {path('anchors.pem')} crl-file {path('lists.pem')} {words[self.setup]}\n"
            "  http-request return status 200\n"
        )

    def command(self) -> list[str | Path]:
        return [program("haproxy"), "-W", "-f", self.files.path("haproxy.cfg")]

    def reload(self) -> None:
        """The master ignores signals until its worker runs, and again behind a reload."""
        wait_until(lambda: _catches(self._process.pid, signal.SIGUSR2), "HAProxy can be reloaded")
        self.signal_and_wait(signal.SIGUSR2)

    def commit(self) -> None:
        """Replace certificate, anchors and lists at the socket of the administrator; the process stays."""
        for kind, name in self.loaded:
            path = self.files.path(name)
            text = path.read_text().strip()
            assert "ransaction" in self._administer(f"set ssl {kind} {path} <<\n{text}\n\n")
            assert "Success" in self._administer(f"commit ssl {kind} {path}\n")

    def _administer(self, text: str) -> str:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(10)
            admin.connect(str(self.files.path("admin.sock")))
            admin.sendall(text.encode())
            admin.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: admin.recv(4096), b"")).decode()

    def _write_ticket_key(self) -> None:
        """Three keys; the second encrypts new tickets."""
        keys = [base64.b64encode(secrets.token_bytes(48)).decode() for _ in range(3)]
        (self.directory / "ticket.key").write_text("\n".join(keys) + "\n")


class Apache(Server):
    """`default`: what Debian's ssl.conf has, tickets and a cache; `cache`: no tickets."""

    @property
    def steps(self) -> Mapping[str, Callable[[], None]]:
        return {**super().steps, "hang-up": lambda: self.signal_and_wait(signal.SIGHUP)}

    def configure(self) -> None:
        path = self.files.path
        lines = {
            "default": "",
            "cache": "SSLSessionTickets off\n",
            "key-file": f"SSLSessionTicketKeyFile {path('ticket.key')}\n",
        }
        (path("pages")).mkdir()
        (path("pages") / "index.html").write_text("yes")
        names = ("mpm_event", "authz_core", "dir", "socache_shmcb", "ssl")
        modules = "".join(f"LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so\n" for name in names)
        path("apache.conf").write_text(
            f"ServerName localhost\nServerRoot {self.directory}\nPidFile {path('apache.pid')}\nErrorLog {path('error.log')}\n"
            f"{modules}DefaultRuntimeDir {self.directory}\nDocumentRoot {path('pages')}\nStartServers 1\nUser nobody\n"
            f"SSLSessionCache shmcb:{path('sessions')}(512000)\nSSLSessionCacheTimeout 300\n{lines[self.setup]}"
            f"Listen {HOST}:{self.port}\n<VirtualHost {HOST}:{self.port}>\n  SSLEngine on\n"
            f"  SSLCertificateFile {path('chain.pem')}\n  SSLCertificateKeyFile {path('key.pem')}\n"
            f"  SSLCACertificateFile {path('anchors.pem')}\n  SSLCARevocationFile {path('lists.pem')}\n"
            "  SSLCARevocationCheck leaf\n  SSLVerifyClient require\n</VirtualHost>\n"
        )

    def command(self) -> list[str | Path]:
        return [program("apache2"), "-DFOREGROUND", "-f", self.files.path("apache.conf")]

    def reload(self) -> None:
        """As `apachectl graceful`."""
        self.signal_and_wait(signal.SIGUSR1)


class NginxRelay(Nginx):
    """nginx as a client of the TLS server at `upstream`, which it verifies with `anchors.pem`."""

    def __init__(self, files: Files, upstream: int) -> None:
        self._upstream = upstream
        super().__init__(files, "relay")

    def server_lines(self) -> str:
        return (
            f"listen {HOST}:{self.port}; location / {{ proxy_pass https://{HOST}:{self._upstream};"
            f" proxy_ssl_name localhost; proxy_ssl_verify on;"
            f" proxy_ssl_trusted_certificate {self.files.path('anchors.pem')}; }}"
        )


class HaproxyRelay(Haproxy):
    """HAProxy in the same place."""

    loaded = (("ca-file", "anchors.pem"),)

    def __init__(self, files: Files, upstream: int) -> None:
        self._upstream = upstream
        super().__init__(files, "relay")

    def proxy_lines(self) -> str:
        return (
            f"listen f\n  bind {HOST}:{self.port}\n  server s {HOST}:{self._upstream} ssl verify required"
            f" ca-file {self.files.path('anchors.pem')} sni str(localhost) verifyhost localhost\n"
        )


def _catches(pid: int, number: signal.Signals) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (number - 1) & 1)
