"""An agent with all keys: its first fetch, its restart from what it stored, and `nginx -t` with a thousand of their names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from hsmd.cli.base.errors import CommandError
from hsmd.cli.bench.scale.row import Measurement, Row
from hsmd.cli.bench.scale.site import READY_S, REQUEST_S, Site

NAMES = 1_000
"""Most server blocks of the configuration that nginx tests."""
POLL_S = 0.01


def _measure(site: Site) -> tuple[float | None, ...]:
    last = site.key_name(site.keys - 1)
    with site.agent() as (socket, _):
        first_s = time.perf_counter() - site.agent_started
        first_s += _until(socket, last)
        export_s = _export(site, socket)
        nginx_s = _nginx(site, socket)
    with site.agent(fresh=False) as (socket, _):
        restart_s = time.perf_counter() - site.agent_started + _until(socket, last)
    return first_s, restart_s, export_s, nginx_s


def _until(socket: Path, name: str) -> float:
    """Seconds until the agent shows the key with the last name."""
    from hsmd.client import AgentEndpoint, Client
    from hsmd.protocol.messages import KeyList, KeyPage

    began = time.perf_counter()
    while time.perf_counter() - began < READY_S:
        with Client.connect(AgentEndpoint(socket)) as agent:
            page: KeyPage = agent.control(KeyList(after=name[:-1], limit=1), timeout_s=REQUEST_S)
        if page.keys:
            return time.perf_counter() - began
        time.sleep(POLL_S)
    raise CommandError(f"the agent did not fetch its keys within {READY_S:g} s", f"see {socket.parent}/log")


def _export(site: Site, socket: Path) -> float:
    out = site.directory / "keys"
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    _run(
        [
            sys.executable,
            "-m",
            "hsmd.cli",
            "agent",
            "export",
            "--all",
            "--socket",
            str(socket),
            "--out",
            str(out),
        ]
    )
    return time.perf_counter() - began


def _nginx(site: Site, socket: Path) -> float | None:
    """Seconds of `nginx -t` with a block for each of the first keys; None without nginx or the provider."""
    from hsmd.provider import openssl_configuration

    nginx, configuration = (
        shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin"),
        site.directory / "nginx.conf",
    )
    openssl = site.directory / "openssl.cnf"
    try:
        openssl.write_text(openssl_configuration(str(socket)))
    except FileNotFoundError:
        return None
    if nginx is None:
        return None
    keys = site.directory / "keys"
    blocks = "".join(
        f"server {{ listen 127.0.0.1:7443 ssl; server_name {name}.test; ssl_certificate {keys}/{name}.pem;"
        f" ssl_certificate_key {keys}/{name}.key; }}\n"
        for name in map(site.key_name, range(min(NAMES, site.keys)))
    )
    configuration.write_text(
        f"pid {site.directory}/nginx.pid;\nerror_log {site.directory}/nginx.log;\nevents {{}}\n"
        f"http {{ access_log off; server_names_hash_max_size 8192; server_names_hash_bucket_size 128;\n{blocks}}}\n"
    )
    began = time.perf_counter()
    _run([nginx, "-t", "-q", "-p", str(site.directory), "-c", str(configuration)], OPENSSL_CONF=str(openssl))
    return time.perf_counter() - began


def _run(command: list[str], **variables: str) -> None:
    done = subprocess.run(
        command, capture_output=True, timeout=READY_S, check=False, env={**os.environ, **variables}
    )
    if done.returncode != 0:
        raise CommandError(
            f"{Path(command[0]).name} failed: {done.stderr.decode(errors='replace').strip()[-500:]}",
            "see above",
        )


MEASUREMENT = Measurement(
    (
        Row("agent: first fetch", "s"),
        Row("agent: restart", "s"),
        Row("agent export --all", "s"),
        Row("nginx -t, at most 1,000 names", "s"),
    ),
    _measure,
)
