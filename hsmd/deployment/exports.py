"""The exported keys in a directory that servers read: NAME.key beside NAME.pem, or NAME.pem.key beside NAME.pem.

The key reference that is there says which key it is; what is no key reference, such as a private key in PEM, is no export and is
never touched.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hsmd.client import keyref
from hsmd.deployment import pair, trusted
from hsmd.errors import BadRequest, ConfigurationError
from hsmd.system import atomic_file

_REFERENCE = ".key"
_CHAIN = ".pem"
_NEW_CHAIN_MODE = 0o644
_MOST_MODE = 0o664
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Found:
    """A file of an export: its content, owner and mode."""

    content: bytes
    owner: tuple[int, int]
    mode: int


@dataclass(frozen=True, slots=True)
class Export:
    """A key and its files; without `chain_file`, no certificate has been installed yet."""

    key: str
    directory: Path
    reference: Path
    reference_file: Found
    chain: Path
    chain_file: Found | None

    @property
    def leaf_digest(self) -> str:
        """SHA-256 of the leaf that is installed, in hexadecimal; empty if there is none that can be read."""
        if self.chain_file is None:
            return ""
        return pair.leaf_digest(self.chain_file.content)

    def holds(self, chain: bytes, reference: bytes) -> bool:
        """Whether its files have this content."""
        return (
            self.chain_file is not None
            and self.chain_file.content == chain
            and self.reference_file.content == reference
        )

    def install(self, chain: bytes, reference: bytes) -> Export:
        """Replace the files that differ, with owner and mode as they are; return the export as it is then.

        Both belong to each other before and after; a server that starts between the two finds a pair that does not. The caller
        syncs the directory. Raises OSError, or ConfigurationError if there is something else in the place of the chain.
        """
        return dataclasses.replace(
            self,
            chain_file=_replace(self.chain, self.chain_file, chain),
            reference_file=_replace(self.reference, self.reference_file, reference),
        )


def find(directory: Path) -> Iterator[Export]:
    """The exports in a directory, by name. Raises ConfigurationError if others can write there, or OSError."""
    trusted.check_way(directory)
    trusted.check(directory, directory.stat())
    for name in sorted(os.listdir(directory)):
        if name.endswith(_REFERENCE) and name[0] != "." and name != _REFERENCE:
            export = _export(directory, name)
            if export is not None:
                yield export


def _export(directory: Path, name: str) -> Export | None:
    reference = directory / name
    found = _read(reference, pair.MAX_REFERENCE_BYTES)
    if found is None:
        return None
    try:
        key = keyref.decode(found.content.decode("ascii", "replace")).name
        pair.check_name(key)
    except BadRequest:
        return None
    chain = reference.with_suffix("")
    if chain.suffix != _CHAIN:
        chain = reference.with_suffix(_CHAIN)
    return Export(key, directory, reference, found, chain, _read(chain, pair.MAX_CHAIN_BYTES))


def _read(path: Path, limit: int) -> Found | None:
    """A regular file; None for anything else, or what is too long."""
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            return None
        return Found(file.read(limit), (status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode))


def _replace(path: Path, found: Found | None, content: bytes) -> Found:
    if found is None:
        if os.path.lexists(path):
            raise ConfigurationError(
                str(path), ["is a link, or no regular file; remove it, and export again"]
            )
        atomic_file.replace(path, content, _NEW_CHAIN_MODE, sync_name=False)
        return Found(content, (os.geteuid(), os.getegid()), _NEW_CHAIN_MODE)
    if found.content != content:
        atomic_file.replace(path, content, found.mode & _MOST_MODE, owner=found.owner, sync_name=False)
    return dataclasses.replace(found, content=content)
