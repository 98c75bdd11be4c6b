"""An SSH server of the host, with an AuthorizedKeysCommand, and logins at it."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.polling import wait_until
from tests.support.processes import Process, program

PRIVILEGE_SEPARATION = Path("/run/sshd")
"""Has to exist where sshd runs as root; the service of the package makes it when it starts."""
LOGGED_IN = "logged in"


class SshServer:
    """Listens at a free port of the loopback address; the user of the tests can log in."""

    def __init__(self, directory: Path, command: Sequence[str], command_user: str) -> None:
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.port = _free_port()
        self.log = directory / "sshd.log"
        host_key, config = directory / "host_key", directory / "sshd_config"
        os.spawnv(
            os.P_WAIT,
            program("ssh-keygen"),
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key)],
        )
        config.write_text(
            "\n".join(
                [
                    f"Port {self.port}",
                    "ListenAddress 127.0.0.1",
                    f"HostKey {host_key}",
                    "PidFile none",
                    "UsePAM no",
                    "PermitRootLogin yes",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "AuthorizedKeysFile none",
                    f"ForceCommand echo {LOGGED_IN}",
                    "LogLevel VERBOSE",
                    f"AuthorizedKeysCommand {' '.join(command)} %u %t %k",
                    f"AuthorizedKeysCommandUser {command_user}",
                ]
            )
            + "\n"
        )
        self._process = Process([program("sshd"), "-D", "-e", "-f", config], self.log)
        wait_until(self._listens, "sshd listens", within_s=20)

    def _listens(self) -> bool:
        self._process.check("sshd")
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False

    def login(self, *options: str | Path) -> list[str]:
        """The command of ssh that logs in with these options."""
        return [
            program("ssh"), "-F", "none", "-p", str(self.port), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", *map(str, options), f"{self.user}@127.0.0.1",
        ]  # fmt: skip

    def stop(self) -> None:
        self._process.stop()


@contextmanager
def ssh_server(directory: Path, command: Sequence[str], command_user: str) -> Iterator[SshServer]:
    """A running server, which is ended afterwards."""
    made = False
    if os.geteuid() == 0 and not PRIVILEGE_SEPARATION.exists():
        PRIVILEGE_SEPARATION.mkdir(mode=0o755)
        made = True
    server = SshServer(directory, command, command_user)
    try:
        yield server
    finally:
        server.stop()
        if made:
            with suppress(OSError):
                PRIVILEGE_SEPARATION.rmdir()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port
