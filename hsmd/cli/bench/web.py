"""nginx and wrk: full TLS 1.3 handshakes per second, with a key in a PEM file or in hsmd."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.base import programs
from hsmd.cli.base.errors import CommandError

WORKERS = 16
CONNECTIONS = 64
START_S = 10.0

_CONFIGURATION = """\
daemon off;
worker_processes {workers};
error_log {directory}/error.log warn;
pid {directory}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    ssl_protocols TLSv1.3;
    ssl_session_cache off;
    ssl_session_tickets off;
    keepalive_timeout 0;
{servers}}}
"""
_SERVER = """\
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {chain};
        ssl_certificate_key {key};
        location / {{ return 200 ok; }}
    }}
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A server block: the files that nginx loads, and its port."""

    chain: Path
    key: Path
    port: int


def free_port() -> int:
    """An unused TCP port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def nginx(directory: Path, sites: list[Site], openssl_configuration: Path) -> Iterator[None]:
    """Run nginx with these servers for the duration of the block. Raises CommandError if it does not start."""
    servers = "".join(_SERVER.format(port=site.port, chain=site.chain, key=site.key) for site in sites)
    configuration = directory / "nginx.conf"
    text = _CONFIGURATION.format(workers=WORKERS, directory=directory, servers=servers)
    if os.geteuid() == 0:
        text = "user root;\n" + text  # the agent of `hsmd dev` serves only the user that started it
    configuration.write_text(text, encoding="utf-8")
    command = [
        programs.find("nginx"),
        "-p",
        str(directory),
        "-c",
        str(configuration),
        "-e",
        str(directory / "error.log"),
    ]
    environment = {**os.environ, "OPENSSL_CONF": str(openssl_configuration)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    try:
        _wait(process, sites)
        yield
    finally:
        process.terminate()
        process.communicate()


def handshakes_per_s(site: Site, seconds: float) -> float:
    """Handshakes per second as counted by wrk, with a new connection per request. Raises CommandError if a request failed."""
    address = f"https://127.0.0.1:{site.port}/"
    threads = os.cpu_count() or 1
    command = [
        programs.find("wrk"), "-t", str(threads), "-c", str(CONNECTIONS), "-d", f"{max(1, round(seconds))}s",
        "--timeout", "5s", "-H", "Connection: close", address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False)
    found = re.search(r"Requests/sec:\s+([0-9.]+)", done.stdout)
    if done.returncode != 0 or found is None or "Non-2xx" in done.stdout:
        said = " ".join(f"{done.stdout} {done.stderr}".split())
        raise CommandError(f"wrk failed: {said}", "see the error log of nginx")
    return float(found[1])


def _wait(process: subprocess.Popen[bytes], sites: list[Site]) -> None:
    ends = time.monotonic() + START_S
    for site in sites:
        while process.poll() is None and time.monotonic() < ends:
            try:
                socket.create_connection(("127.0.0.1", site.port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.02)
        else:
            process.kill()
            raise CommandError(
                f"nginx did not start: {process.communicate()[1].decode(errors='replace').strip()}",
                "fix this and run it again",
            )
