"""The file that `hsmd backup` writes and `hsmd restore` reads: a tar archive that starts with the hashes of its members.

    manifest.json    {"format", "release", "daemon", "created_at", "revision", "files": [{"name", "size", "sha256"}]}
    store.json       all rows of the store (store/portable.py)
    hsmd.toml        the configuration
    host_key         the SSH host key, if requested
    checkpoint.json  the newest checkpoint record of the audit log, if there is one
    audit/...        the log itself, if requested

It holds nothing of the token and no PIN. A reader accepts only members whose name, size and hash the manifest lists.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

import msgspec

from hsmd.errors import BadRequest, Conflict
from hsmd.system.input_files import open_file

FORMAT = 1
MANIFEST = "manifest.json"
STORE, CONFIGURATION, HOST_KEY, CHECKPOINT = "store.json", "hsmd.toml", "host_key", "checkpoint.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 1 << 30
_PIECE = 1 << 20
_AUDIT_NAME = re.compile(r"audit/(audit\.jsonl|segments/[0-9]{12}\.jsonl)\Z")


class FileEntry(msgspec.Struct, frozen=True):
    """A member, with its size in bytes and its SHA-256 in hex."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """The contents of an archive; `revision` is that of the store's schema, `daemon` the configured name."""

    format: int
    release: str
    daemon: str
    created_at: datetime
    revision: str
    files: list[FileEntry]


class Archive:
    """An archive, verified completely against its manifest."""

    def __init__(self, path: Path) -> None:
        """Raises BadRequest for a file that is damaged, incomplete or of a newer format; OSError."""
        self._path = path
        try:
            self.manifest = self._verify()
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise BadRequest(
                f"{path} is damaged or not a backup of hsmd ({error}); name an archive of `hsmd backup`"
            ) from None

    def names(self) -> set[str]:
        """The names of the members, without the manifest."""
        return {entry.name for entry in self.manifest.files}

    def read(self, name: str) -> bytes:
        """The content of a member, which must fit into memory. Raises BadRequest if the archive has no such member."""
        for found, file in self._members():
            if found == name:
                return file.read(MAX_DOCUMENT_BYTES)
        raise BadRequest(f"{self._path} has no member {name}")

    def extract_audit(self, directory: Path) -> int:
        """Write the log's files into `directory`; return their number. Raises Conflict for an existing file, OSError."""
        count = 0
        for name, file in self._members():
            if _AUDIT_NAME.match(name):
                target = directory / name.removeprefix("audit/")
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _write_new(target, file)
                count += 1
        return count

    def _verify(self) -> Manifest:
        manifest: Manifest | None = None
        seen: list[FileEntry] = []
        for name, file in self._members():
            if manifest is None:
                manifest = _manifest(name, file)
                continue
            seen.append(_read_entry(name, file))
        if manifest is None or seen != manifest.files:
            raise BadRequest(f"{self._path} is damaged: its members do not match its manifest")
        return manifest

    def _members(self) -> Iterator[tuple[str, IO[bytes]]]:
        with open(open_file(self._path), "rb") as archive, tarfile.open(fileobj=archive, mode="r:") as tar:
            for member in tar:
                # With holes in a sparse member, a small archive could fill the disk.
                file = tar.extractfile(member) if member.isreg() and not member.issparse() else None
                if file is None or not _is_known(member.name):
                    raise BadRequest(f"{self._path} is damaged: unknown member {member.name!r}")
                yield member.name, file


def _is_known(name: str) -> bool:
    return (
        name in (MANIFEST, STORE, CONFIGURATION, HOST_KEY, CHECKPOINT) or _AUDIT_NAME.match(name) is not None
    )


def _manifest(name: str, file: IO[bytes]) -> Manifest:
    try:
        manifest = msgspec.json.decode(file.read(MAX_MANIFEST_BYTES), type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise BadRequest("the backup is damaged: its manifest cannot be decoded") from None
    if name != MANIFEST:
        raise BadRequest("not a backup of hsmd: it does not start with a manifest")
    if manifest.format > FORMAT:
        raise BadRequest(
            f"the backup has format {manifest.format}; install hsmd {manifest.release} or newer to restore it"
        )
    return manifest


def _read_entry(name: str, file: IO[bytes]) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    while piece := file.read(_PIECE):
        digest.update(piece)
        size += len(piece)
    return FileEntry(name, size, digest.hexdigest())


def _write_new(target: Path, source: IO[bytes]) -> None:
    try:
        descriptor = os.open(
            target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
    except FileExistsError:
        raise Conflict(f"{target} exists already; move it away first") from None
    with os.fdopen(descriptor, "wb") as file:
        while piece := source.read(_PIECE):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
