"""Writing of backup archives (archive.py)."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from hsmd.daemon.backup.archive import MANIFEST, FileEntry, Manifest
from hsmd.errors import BadRequest

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """A member to write: bytes, or the first `size` bytes of a file that may grow meanwhile."""

    name: str
    content: bytes | Path
    size: int

    @classmethod
    def of(cls, name: str, content: bytes | Path) -> Source:
        """A member with the whole content at its present size."""
        return cls(name, content, len(content) if isinstance(content, bytes) else content.stat().st_size)

    def open(self) -> IO[bytes]:
        """A stream of the content, from its beginning."""
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")

    def entry(self) -> FileEntry:
        """The manifest's entry; reads the content once for its hash."""
        with self.open() as file:
            return FileEntry(self.name, self.size, _sha256(file, self.size))


def write(target: IO[bytes], sources: Sequence[Source], describe: Manifest) -> Manifest:
    """Write an archive; `describe.files` is filled in. Raises OSError, and BadRequest if a file was truncated meanwhile."""
    manifest = msgspec.structs.replace(describe, files=[source.entry() for source in sources])
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, Source.of(MANIFEST, msgspec.json.encode(manifest)), manifest)
        for source in sources:
            _add(tar, source, manifest)
    return manifest


def _add(tar: tarfile.TarFile, source: Source, manifest: Manifest) -> None:
    member = tarfile.TarInfo(source.name)
    member.size, member.mode, member.mtime = source.size, 0o600, int(manifest.created_at.timestamp())
    with source.open() as file:
        tar.addfile(member, file)


def _sha256(file: IO[bytes], size: int) -> str:
    digest = hashlib.sha256()
    while size:
        piece = file.read(min(size, _PIECE))
        if not piece:
            raise BadRequest("a file was truncated while it was backed up; try again")
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()
