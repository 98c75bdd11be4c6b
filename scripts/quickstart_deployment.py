"""What scripts/quickstart starts and stops: token, daemon, keys, certificates, agent and nginx, in one directory."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quickstart_ca import Authority

from hsmd.provider import openssl_configuration

HSMD = Path(sys.executable).with_name("hsmd")
MARK = ".hsmd-quickstart"
"""Marks a directory of this script; --down removes no other."""
READY_S = 30.0
EXIT_HEALTH = (4, 5)
"""With which `hsmd status` ends while the token is starting, or something needs attention."""
EXIT_TRY_AGAIN = 3

KEYS = {
    "p256": ("p-256", "tls13-server"),
    "rsa": ("rsa-2048", "tls13-server"),
    "ed25519": ("ed25519", "tls13-server"),
}
TLS12_KEYS = {
    "p256": ("p-256", "tls-server"),
    "rsa": ("rsa-2048", "tls-server"),
    "ed25519": ("ed25519", "tls-server"),
    "rsa-kx": ("rsa-2048", "tls12-rsa-premaster"),
}
"""name: (type, purpose). A key either signs or decrypts."""

SERVER = """
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {keys}/{key}.pem;
    ssl_certificate_key {keys}/{key}.key;
    {settings}
    location / {{ return 200 "hello from nginx, with {key}\\n"; }}
  }}
"""
NGINX = """
{user}
worker_processes 2;
pid nginx.pid;
error_log logs/error.log notice;
events {{}}
http {{
  access_log off;
  default_type text/plain;
  client_body_temp_path tmp/body; proxy_temp_path tmp/proxy; fastcgi_temp_path tmp/fastcgi;
  uwsgi_temp_path tmp/uwsgi; scgi_temp_path tmp/scgi;
  ssl_session_cache off;
  ssl_session_tickets off;
{servers}
}}
"""
TLS13_ONLY = "ssl_protocols TLSv1.3;"
ANY_VERSION = "ssl_protocols TLSv1.2 TLSv1.3;"
RSA_KEY_EXCHANGE = "ssl_protocols TLSv1.2; ssl_ciphers AES128-GCM-SHA256:AES128-SHA256;"


class StepFailed(Exception):
    """A step failed; the text names the step and its log."""


class Deployment:
    """A daemon, an agent and nginx in one directory."""

    CLIENT = "quickstart"

    def __init__(self, directory: Path, *, tls12: bool = False) -> None:
        self.directory = directory
        self.tls12 = tls12
        self.plans = TLS12_KEYS if tls12 else KEYS
        self.profile = directory / "operator.toml"
        self.keys = directory / "keys"
        self.ca = Authority(directory / "ca.pem")
        self.ports: dict[str, int] = {}
        self._daemon = directory / "daemon"
        self._agent = directory / "agent" / "agent.toml"
        self._socket = directory / "agent" / "agent.sock"
        self._nginx = directory / "nginx"
        self._pids = directory / "processes"

    def start(self, say: Callable[[str], None]) -> None:
        """Start everything. Raises StepFailed; processes that were started before keep running, for inspection and --down."""
        self._prepare_directory()
        say("daemon: a SoftHSM token, a host key, a store, the first operator (hsmd init --softhsm)")
        address, host_key = self._start_daemon()
        for key, (key_type, purpose) in self.plans.items():
            say(
                f"key {key}: {key_type} for {purpose}, generated in the token; certificate from a temporary CA"
            )
            self._make_key(key, key_type, purpose)
        say("agent: its own SSH key, registered by the operator, with a grant for each key")
        self._start_agent(address, host_key)
        say("nginx: one server for each key, with a key reference in place of the private key")
        self._start_nginx()

    def hsmd(self, *arguments: str | Path, operator: bool = True) -> Any:
        """The output of `hsmd ... --json`. Raises StepFailed with its message."""
        done = self._run(arguments, operator)
        if done.returncode != 0:
            raise StepFailed(f"hsmd {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def remove(self) -> None:
        """Stop all processes, nginx first, and remove the directory if this script created it."""
        for name in ("nginx", "agent", "daemon"):
            stop(self._pids / name)
        if self.directory.exists() and any(self.directory.iterdir()):
            if not (self.directory / MARK).exists():
                raise StepFailed(f"{self.directory} was not created by this script: choose another --dir")
            shutil.rmtree(self.directory)

    # --- steps ---

    def _prepare_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / MARK).touch()
        self.directory.chmod(0o755)
        nginx = (self._nginx / "logs", self._nginx / "tmp")
        for path in (self.keys, self._agent.parent, self._daemon, *nginx, self._pids):
            path.mkdir(parents=True)
        closed = [str(path) for path in self.directory.parents if not path.stat().st_mode & 0o001]
        if os.geteuid() == 0 and closed:
            raise StepFailed(
                f"nginx workers cannot read {self.directory}: other users may not enter {closed[0]}; choose another --dir"
            )

    def _start_daemon(self) -> tuple[str, str]:
        config = self._daemon / "hsmd.toml"
        made = self.hsmd(
            "init",
            "--softhsm",
            "--config",
            config,
            "--state",
            self._daemon,
            "--listen",
            f"127.0.0.1:{free_port()}",
            "--operator",
            "operator",
            "--profile",
            self.profile,
            operator=False,
        )
        reader, writer = os.pipe()
        self._start(
            "daemon", [HSMD, "serve", "--config", config, "--ready-fd", str(writer)], pass_fds=[writer]
        )
        os.close(writer)
        with open(reader, "rb") as pipe:
            if not select.select([pipe], [], [], READY_S)[0] or not pipe.readline():
                raise StepFailed(f"the daemon did not start; {self._log_tail('daemon')}")
        self._until_done(["status"], lambda status: status["daemon"]["tokens"][0]["state"] == "ready")
        return made["daemon"], made["host_key"]

    def _make_key(self, key: str, key_type: str, purpose: str) -> None:
        info = self._until_done(["key", "generate", key, "--type", key_type, "--purpose", purpose], bool)
        if purpose != "tls12-rsa-premaster":
            request = self.hsmd("key", "csr", key, "--dns", "localhost", "--ip", "127.0.0.1")["pem"]
            chain = self.ca.sign_request(request.encode())
        else:  # a key that only decrypts cannot sign a request: the CA uses its public half
            chain = self.ca.certify(b64decode(info["public_key"]), key)
        file = self.directory / f"{key}.chain.pem"
        file.write_bytes(chain)
        self.hsmd("cert", "import", key, file)

    def _start_agent(self, address: str, host_key: str) -> None:
        made = self.hsmd(
            "agent",
            "init",
            "--config",
            self._agent,
            "--socket",
            self._socket,
            "--daemon",
            address,
            "--host-key",
            host_key,
            "--client",
            self.CLIENT,
            *self._allowed(),
            operator=False,
        )
        self.hsmd("client", "add", self.CLIENT, "--key", made["public_key"])
        for key, (_, purpose) in self.plans.items():
            self.hsmd("grant", "add", self.CLIENT, key, "--purpose", purpose)
        self._start("agent", [HSMD, "agent", "run", "--config", self._agent])
        for key in self.plans:
            export: list[str | Path] = ["agent", "export", key, "--out", self.keys, "--config", self._agent]
            self._until_done(export, bool, operator=False)

    def _allowed(self) -> list[str]:
        return ["--allow", "www-data", "--allow", "root"] if os.geteuid() == 0 else []

    def _start_nginx(self) -> None:
        signing = ANY_VERSION if self.tls12 else TLS13_ONLY
        self.ports = dict(zip(self.plans, free_ports(len(self.plans)), strict=True))
        servers = "".join(
            SERVER.format(
                port=port,
                keys=self.keys,
                key=key,
                settings=RSA_KEY_EXCHANGE if key == "rsa-kx" else signing,
            )
            for key, port in self.ports.items()
        )
        user = "user www-data;" if os.geteuid() == 0 else ""
        config = self._nginx / "nginx.conf"
        config.write_text(NGINX.format(user=user, servers=servers))
        openssl = self.directory / "openssl.cnf"
        openssl.write_text(openssl_configuration(str(self._socket)))
        program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise StepFailed("nginx was not found: scripts/quickstart installs the package nginx-light")
        command: list[str | Path] = [
            program, "-p", f"{self._nginx}/", "-c", config, "-e", "logs/error.log", "-g", "daemon off;"
        ]  # fmt: skip
        self._start("nginx", command, environment={"OPENSSL_CONF": str(openssl)})
        for port in self.ports.values():
            self._until_open(port)

    # --- processes ---

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def _log_tail(self, name: str) -> str:
        log = self._log(name)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join([f"the end of {log}:", *lines[-5:]])

    def _start(
        self,
        name: str,
        command: Sequence[str | Path],
        pass_fds: Sequence[int] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        """Start a process in its own session; it keeps running after this script, and `stop` can find it."""
        with self._log(name).open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
                start_new_session=True,
                cwd=self.directory,
                env=clean_environment() | (environment or {}),
            )
        (self._pids / name).write_text(f"{child.pid} {started_at(child.pid)}\n")

    def _run(self, arguments: Sequence[str | Path], operator: bool) -> subprocess.CompletedProcess[str]:
        profile: list[str | Path] = ["--profile", self.profile] if operator else []
        command: list[str | Path] = [HSMD, *arguments, *profile, "--json"]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            stdin=subprocess.DEVNULL,
            env=clean_environment(),
        )

    def _until_done(
        self, arguments: Sequence[str | Path], good: Callable[[Any], bool], operator: bool = True
    ) -> Any:
        """Run `hsmd` until it succeeds; raise StepFailed for any exit code but "try again later"."""
        deadline = time.monotonic() + READY_S
        while True:
            done = self._run(arguments, operator)
            if done.returncode in (0, *EXIT_HEALTH) and good(answer := json.loads(done.stdout)):
                return answer
            if done.returncode not in (0, EXIT_TRY_AGAIN, *EXIT_HEALTH) or time.monotonic() > deadline:
                name = "daemon" if operator else "agent"
                raise StepFailed(
                    f"hsmd {' '.join(map(str, arguments))}: {done.stderr.strip()}; {self._log_tail(name)}"
                )

    def _until_open(self, port: int) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        raise StepFailed(f"nginx does not listen on port {port}; see {self._nginx / 'logs' / 'error.log'}")


def clean_environment() -> dict[str, str]:
    """The environment without variables that would make children use another configuration."""
    return {
        name: value for name, value in os.environ.items() if name not in ("OPENSSL_CONF", "SOFTHSM2_CONF")
    }


def free_ports(count: int) -> list[int]:
    """Unused ports of the loopback interface."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def free_port() -> int:
    """An unused port."""
    return free_ports(1)[0]


def started_at(pid: int) -> str:
    """Start time of a process in kernel ticks, which distinguishes it from a later one with the same pid; empty if it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def stop(pid_file: Path) -> None:
    """Stop the process in a file that `_start` wrote: SIGTERM, then SIGKILL after 20 seconds."""
    if not pid_file.exists():
        return
    number, since = pid_file.read_text().split()
    pid = int(number)
    if started_at(pid) != since:
        return
    handle = os.pidfd_open(pid)
    try:
        for sign, patience_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)):
            signal.pidfd_send_signal(handle, sign)
            if select.select([handle], [], [], patience_s)[0]:
                break
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
        pid_file.unlink()
