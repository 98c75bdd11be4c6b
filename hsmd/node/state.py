"""What a node remembers beside its files: which version its program has loaded, and how its last pass came out."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec

from hsmd.errors import Conflict
from hsmd.system import atomic_file
from hsmd.system.input_files import read_file

STATE, LOCK = "state.json", "lock"
MAX_BYTES = 1 << 20
LOCK_S = 120.0
"""Longer than a pass takes that reloads a program and probes it."""
OVERDUE = timedelta(minutes=15)
"""How late a pass can be: the one before may take long."""
_PAUSE_S = 0.1


_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class ProbeState(msgspec.Struct, frozen=True):
    """How a probe came out; `error` is empty for success."""

    probe: str
    error: str = ""


class NodeState(msgspec.Struct, frozen=True):
    """The state after a pass. Texts are empty for what went well."""

    loaded: str = ""
    """The version that the program has loaded."""
    anew: bool = False
    """Whether the node was set up again: the first certificate comes with the anchors of the daemon, whatever is there."""
    passed_at: _Moment | None = None
    next_at: _Moment | None = None
    renewed_at: _Moment | None = None
    asked_at: _Moment | None = None
    """When a certificate was asked for last,"""
    wasted: int = 0
    """and how often in a row without use: no answer came, or one of no use, or it could not be written."""
    daemon: str = ""
    """The daemon that answered last."""
    daemon_error: str = ""
    trust_error: str = ""
    lists_error: str = ""
    files_error: str = ""
    reload_error: str = ""
    probes: tuple[ProbeState, ...] = ()

    def overdue(self, now: datetime) -> str:
        """That the next pass should have been made; empty if it is not so."""
        if self.passed_at is None:
            return "no pass was made, or its result is lost: hsmd node renew"
        if self.next_at is None or now < self.next_at + OVERDUE:
            return ""
        return f"no pass was made since {self.passed_at:%Y-%m-%d %H:%M:%S} UTC: is the service running? hsmd node run"

    @property
    def had_files(self) -> bool:
        """Whether there were files once, so that there are anchors that the node trusts."""
        return bool(self.loaded or self.renewed_at)

    @property
    def is_well(self) -> bool:
        """Whether nothing went wrong."""
        return not self.problems

    @property
    def problems(self) -> list[str]:
        """What went wrong, in the order of the steps of a pass."""
        found = [self.daemon_error, self.trust_error, self.lists_error, self.files_error, self.reload_error]
        return [text for text in found if text] + [
            f"{each.probe}: {each.error}" for each in self.probes if each.error
        ]


def read(directory: Path) -> NodeState:
    """The state; that of a new node if there is none, or a damaged one: then its program is reloaded once more."""
    try:
        return msgspec.json.decode(read_file(directory / STATE, MAX_BYTES), type=NodeState)
    except (OSError, msgspec.DecodeError):
        return NodeState()


def write(directory: Path, state: NodeState) -> None:
    """Store the state. Raises OSError."""
    atomic_file.replace(directory / STATE, msgspec.json.encode(state), 0o644)


def begin_anew(directory: Path) -> None:
    """Take the next anchors from the daemon, whatever was there. Callers hold the lock. Raises OSError."""
    write(directory, msgspec.structs.replace(read(directory), anew=True))


@contextmanager
def locked(directory: Path, wait_s: float = LOCK_S) -> Iterator[None]:
    """One pass at a time, by the service or by a command. Raises Conflict after `wait_s`, OSError."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _take(descriptor, time.monotonic() + wait_s)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, until: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise Conflict(
                    "another command or the service of this node is at work; try again when it has ended"
                ) from None
            time.sleep(_PAUSE_S)
