"""The newest statement that this machine has seen of each record: what shows that a daemon gives an older one.

One small file for each version of a record, below a directory: OWNER/RECORD/VERSION. A lock keeps two commands from taking turns
between reading and writing. A machine without a memory accepts the first statement that it is given.

Several commands of an owner may work at the same time, and one may learn a statement while an earlier one is on its way to
another. So what a daemon gives is compared with what was seen before it was asked (`Before`).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hsmd.errors import ConfigurationError, ProofInvalid
from hsmd.system import atomic_file
from hsmd.system.input_files import read_file

MAX_FILE_BYTES = 4_096
_PRIVATE_DIRECTORY = 0o700


class OlderStatement(ProofInvalid):
    """The daemon gave a statement older than one that was seen, or another one with the same number."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One version of a record."""

    owner: str
    record: str
    version: int

    def __str__(self) -> str:
        return f"{self.record} version {self.version}"


class Newest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Number and digest (SHA-256 of the text, in hex) of a statement."""

    number: int
    digest: str


@dataclass(frozen=True, slots=True)
class Before:
    """What was seen of a record before a daemon was asked about it: nothing older than this may come."""

    version: int
    """The version that is asked for; the latest one that was seen, if the newest is asked for (0: none)."""
    newest: Newest | None
    """Its newest statement."""

    def of(self, subject: Subject) -> Newest | None:
        """What was seen of a version that the daemon gave: nothing of one that is newer than all that had been seen."""
        return self.newest if subject.version == self.version else None


class Seen:
    """The memory in `directory`, which is made with the first entry. Names are those of the protocol: no path separators."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def newest(self, subject: Subject) -> Newest | None:
        """What was seen last; None if nothing. Raises ConfigurationError for a damaged file."""
        path = self._path(subject)
        try:
            return msgspec.json.decode(read_file(path, MAX_FILE_BYTES), type=Newest)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            fault = f"cannot be used: {error}; find out why, restore it from a backup, or remove it to trust the daemon once"
            raise ConfigurationError(str(path), [fault]) from None

    def before(self, owner: str, record: str, version: int = 0) -> Before:
        """What was seen of a version (0: of the latest one), to be read before a daemon is asked. Raises as `newest`."""
        version = version or self._latest_version(owner, record)
        return Before(version, self.newest(Subject(owner, record, version)) if version else None)

    def _latest_version(self, owner: str, record: str) -> int:
        files = self._path(Subject(owner, record, 0)).parent.glob("*.json")
        return max((int(each.stem) for each in files if each.stem.isdecimal()), default=0)

    def learn(self, subject: Subject, given: Newest) -> bool:
        """Remember a statement that was verified; whether it is the newest one that was seen. Nothing goes back.

        Raises OlderStatement for another one with the number that was seen, ConfigurationError or OSError.
        """
        with self._locked():
            seen = self.newest(subject)
            if seen is not None and given.number < seen.number:
                return False
            if seen is not None:
                check_not_older(subject, seen, given)
            path = self._path(subject)
            _make_directories(path.parent)
            if seen != given:
                atomic_file.replace(path, msgspec.json.encode(given))
            return True

    def _path(self, subject: Subject) -> Path:
        for name in (subject.owner, subject.record):
            if "/" in name or name in ("", ".", ".."):
                raise ConfigurationError("seen", [f"{name[:80]!r} is not a name of a record"])
        return self._directory / subject.owner / subject.record / f"{subject.version}.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        _make_directories(self._directory)
        descriptor = os.open(
            self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _make_directories(path: Path) -> None:
    path.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)


def check_newest_version(before: Before, given: Subject) -> None:
    """Raises OlderStatement if `given` was named the newest version of its record, and a later one had been seen.

    A later version has statements of its own, so those of this one do not show that it was replaced; and `before` says
    nothing about them.
    """
    if given.version < before.version:
        raise OlderStatement(
            f"the daemon gave version {given.version} of {given.record} as the newest one, and this machine has seen version "
            f"{before.version}: the store was set back, or the daemon withholds it; do not use the key before you know why "
            "(name the version to use this one nevertheless)"
        )


def check_not_older(subject: Subject, seen: Newest, given: Newest) -> None:
    """Raises OlderStatement if `given` is older than what was seen, or differs from it at the same number."""
    if given.number < seen.number:
        raise OlderStatement(
            f"the daemon gave statement {given.number} of {subject}, and this machine has seen number {seen.number}: the store "
            "was set back, or the daemon withholds what you signed since; do not use the key before you know why (after a "
            "restore: hsmd vault limits --restored)"
        )
    if given.number == seen.number and given.digest != seen.digest:
        raise OlderStatement(
            f"the daemon gave another statement {given.number} of {subject} than before: two were signed with one number; "
            "find out who else uses the management key"
        )
