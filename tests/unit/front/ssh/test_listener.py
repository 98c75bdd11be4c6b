"""A fault of one connection ends that connection, not those of others."""

from __future__ import annotations

from typing import Any

from hsmd.daemon.config.settings import LimitsConfig
from hsmd.daemon.front.ssh.admission import Admission
from hsmd.daemon.front.ssh.listener import SshListener

LIMITS = LimitsConfig(4, 10, 3, 40, 2, 512, 20_000, 1_024, 4_096, 10)


class Connection:
    """A connection that is checked, and may have a fault."""

    peer = "192.0.2.7"

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.checked = False
        self.dropped: list[str] = []

    def check(self, now: float) -> None:
        self.checked = True
        if self.fault is not None:
            raise self.fault

    def drop(self, reason: str) -> None:
        self.dropped.append(reason)


def test_a_connection_that_cannot_be_checked_is_dropped_and_the_others_are_checked() -> None:
    parts: Any = {"identities": None, "make_session": None, "intakes": None}
    listener = SshListener(admission=Admission(LIMITS), **parts)
    faulty, *others = connections = [
        Connection(ValueError("negative file descriptor")),
        Connection(),
        Connection(),
    ]
    listener._connections.update(connections)  # type: ignore[arg-type]
    listener.check()
    assert faulty.dropped
    assert all(other.checked and not other.dropped for other in others)
