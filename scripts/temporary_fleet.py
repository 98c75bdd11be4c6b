"""Two temporary daemons that share a PostgreSQL, a token and a host key, for scripts/tour."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hsmd.cli.base import profile as profiles
from hsmd.cli.base.files import PRIVATE, write_new
from tests.support.daemon import OPERATOR, Daemon
from tests.support.fleet import free_port
from tests.support.postgresql import running_cluster

DATABASE = "tour"
READY_S = 60.0


class Fleet:
    """The daemons, by number; both run when it is made. Released with `resources`."""

    def __init__(self, resources: ExitStack, directory: Path) -> None:
        """Raises Exception if PostgreSQL is not installed."""
        cluster = resources.enter_context(running_cluster())
        cluster.run(f"CREATE DATABASE {DATABASE}")
        first = Daemon(
            directory / "daemon-1",
            store_url=cluster.url(DATABASE),
            name="hsm-1",
            addresses=[f"127.0.0.1:{free_port()}"],
        )
        second = Daemon(
            directory / "daemon-2", name="hsm-2", beside=first, addresses=[f"127.0.0.1:{free_port()}"]
        )
        self.daemons = [first, second]
        for daemon in self.daemons:
            resources.callback(daemon.end)
            daemon.start()

    def address(self, number: int) -> str:
        """ADDRESS:PORT, which stays when the daemon is started again."""
        return self.daemons[number].addresses[0]

    def operator_profile(self) -> Path:
        """A profile of the operator, at the first daemon."""
        first = self.daemons[0]
        path = first.directory / profiles.PROFILE_NAME
        if not path.exists():
            made = profiles.Profile(
                self.address(0), OPERATOR, first.directory / OPERATOR, (first.notice["host_key"],)
            )
            write_new(path, profiles.render(made), PRIVATE)
        return path

    def kill(self, number: int) -> None:
        """End all processes of a daemon with SIGKILL."""
        self.daemons[number].end()

    def start(self, number: int) -> None:
        """Start a daemon again, and wait for it."""
        self.daemons[number].start()
