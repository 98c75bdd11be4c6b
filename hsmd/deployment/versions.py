"""What the agent writes: for each key a directory per version of its chain, and a link `current` to the one to install.

certificates/NAME/VERSION/{chain.pem,key.pem}     complete and synced before `current` leads there
certificates/NAME/current                         switched by one rename
certificates.switched                             exists while something was switched and not yet looked at
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from hsmd.client import keyref
from hsmd.client.keyref import KeyReference
from hsmd.deployment import pair, version_directories
from hsmd.errors import BadRequest
from hsmd.system import atomic_file

DIRECTORY = "certificates"
SWITCHED = "certificates.switched"
CHAIN = "chain.pem"
REFERENCE = "key.pem"
WRITERS = 8
"""Most of the time is that of syncing files."""
_PRIVATE_DIRECTORY = 0o700


@dataclass(frozen=True, slots=True)
class Offer:
    """The chain (PEM) of a key and the reference to it."""

    reference: KeyReference
    chain: str

    @property
    def name(self) -> str:
        """Name of the key."""
        return self.reference.name

    @property
    def version(self) -> str:
        """What the version of this chain is called."""
        return hashlib.sha256(self.chain.encode()).hexdigest()[:32]

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the version by name."""
        return {CHAIN: self.chain.encode(), REFERENCE: keyref.encode(self.reference).encode()}


@dataclass(slots=True)
class Outcome:
    """What became of offers, by the names of their keys: `failed` are errors of the disk, to be tried again."""

    current: list[str] = field(default_factory=list)
    switched: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class CertificateVersions:
    """The versions below the state directory of an agent. Methods block, for use in a thread."""

    def __init__(self, state: Path) -> None:
        self._directory = state / DIRECTORY
        self._stamp = state / SWITCHED

    def write(
        self, offers: Sequence[Offer], now: datetime, stopping: Callable[[], bool] = lambda: False
    ) -> Outcome:
        """Make what is offered current, unless it must not be installed; what is current is not written again.

        Ends early, with the rest of the offers left out, when `stopping()`. Raises OSError if the directory cannot be made.
        """
        self._directory.mkdir(mode=_PRIVATE_DIRECTORY, exist_ok=True)
        outcome = Outcome()

        def one(offer: Offer) -> None:
            if stopping():
                return
            try:
                (outcome.switched if self._write(offer, now) else outcome.current).append(offer.name)
            except BadRequest as error:
                outcome.refused[offer.name] = error.text
            except OSError as error:
                outcome.failed[offer.name] = f"{error.strerror or error}"

        with ThreadPoolExecutor(WRITERS) as writers:
            for _ in writers.map(one, offers):
                pass
        if outcome.switched:
            atomic_file.sync_directory(self._directory)
        return outcome

    def announce(self) -> None:
        """Tell root's side that something was switched. Raises OSError."""
        atomic_file.replace(self._stamp, "")

    def keep_only(self, names: Iterable[str]) -> list[str]:
        """Remove the versions of all other keys; return the names of these. Raises OSError."""
        try:
            found = set(os.listdir(self._directory))
        except FileNotFoundError:
            return []
        gone = sorted(found.difference(names))
        for name in gone:
            shutil.rmtree(self._directory / name)
        return gone

    def _write(self, offer: Offer, now: datetime) -> bool:
        """Whether `current` was switched, or what it leads to repaired."""
        pair.check_name(offer.name)
        home = self._directory / offer.name
        version, files = offer.version, offer.files
        if version_directories.is_current(home, version, files):
            return False
        pair.of_key(offer.reference, files[CHAIN]).check_dates(now)
        home.mkdir(mode=_PRIVATE_DIRECTORY, exist_ok=True)
        version_directories.store(home / version, files)
        version_directories.switch(home, version)
        version_directories.prune(home, version)
        return True
