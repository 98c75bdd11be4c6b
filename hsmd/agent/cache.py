"""The agent's cache of its keys: names, public halves and certificates, all of it public, in memory and in one file.

With it, TLS servers can start while the daemon is not reachable.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec

from hsmd import observe
from hsmd.client.connection import Connection
from hsmd.errors import ConfigurationError, NotFound, ProtocolError, Refused
from hsmd.protocol.messages import (
    MAX_PAGE,
    CertificateExport,
    KeyInfo,
    KeyList,
    KeyPage,
    KeyShow,
    PemDocument,
)
from hsmd.system import atomic_file

FILE_NAME = "keys.json"
MAX_KEYS = 10_000
MAX_FILE_BYTES = 64 << 20
_PRIVATE_DIRECTORY = 0o700

log = observe.logger()


class CachedKey(msgspec.Struct, frozen=True):
    """One key; `chain` is its certificate chain in PEM, empty if the daemon has none."""

    info: KeyInfo
    chain: str = ""

    @property
    def digest(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo."""
        return bytes.fromhex(self.info.digest)


class _File(msgspec.Struct):
    """The file's content."""

    version: int
    keys: list[CachedKey]


class Cache:
    """The keys by name, in memory and in the state directory. `complete`: all of them were fetched at least once.

    A failure to write the file is logged; the keys in memory remain usable.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keys: dict[str, CachedKey] = {}
        self.complete = False

    def load(self) -> None:
        """Read what an earlier run stored; a damaged file is ignored.

        Raises ConfigurationError if the state directory cannot be used.
        """
        _prepare(self._directory)
        path = self._directory / FILE_NAME
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError("too large")
            stored = msgspec.json.decode(path.read_bytes(), type=_File)
            if stored.version != 1:
                raise ValueError("unknown version")
            self._keys = _checked(stored.keys)
            self.complete = True
        except FileNotFoundError:
            return
        except (OSError, ValueError, ProtocolError) as error:
            log.warning("cache.unusable", path=str(path), error=str(error))

    def replace(self, keys: Iterable[CachedKey]) -> bool:
        """Replace all keys by those of a daemon; return whether anything changed. Raises ProtocolError for a wrong digest."""
        fresh = _checked(keys)
        changed = fresh != self._keys or not self.complete
        self._keys, self.complete = fresh, True
        if changed:
            self._store()
        return changed

    def put(self, key: CachedKey) -> bool:
        """Add or replace one key; return whether anything changed. Raises ProtocolError for a wrong digest."""
        name = next(iter(_checked([key])))
        changed = self._keys.get(name) != key
        if changed:
            self._keys[name] = key
            self._store()
        return changed

    def forget(self, name: str) -> bool:
        """Remove a key that the daemon no longer has or grants; return whether it was in the cache."""
        known = self._keys.pop(name, None) is not None
        if known:
            self._store()
        return known

    def get(self, name: str) -> CachedKey | None:
        """The key of this name."""
        return self._keys.get(name)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._keys)

    def digests(self) -> list[tuple[str, bytes]]:
        """(name, digest) of all keys."""
        return [(name, key.digest) for name, key in self._keys.items()]

    def _store(self) -> None:
        content = msgspec.json.encode(_File(1, [self._keys[name] for name in self.names()]))
        try:
            atomic_file.replace(self._directory / FILE_NAME, content)
        except OSError as error:
            log.error("cache.not_stored", path=str(self._directory), error=str(error))


async def fetch_one(connection: Connection, name: str, *, timeout_s: float) -> CachedKey:
    """One key, if the daemon shows it to this client. Raises HsmdError."""
    info: KeyInfo = await connection.control(KeyShow(name=name), timeout_s=timeout_s)
    return CachedKey(info, await _chain(connection, info, timeout_s))


async def fetch(connection: Connection, *, timeout_s: float) -> list[CachedKey]:
    """All keys that the daemon shows to this client. Raises HsmdError."""
    keys: list[CachedKey] = []
    after, more = "", True
    while more:
        page: KeyPage = await connection.control(KeyList(after=after, limit=MAX_PAGE), timeout_s=timeout_s)
        if not page.keys or page.keys[0].name <= after or len(keys) > MAX_KEYS:
            break
        keys += [CachedKey(info, await _chain(connection, info, timeout_s)) for info in page.keys]
        after, more = page.keys[-1].name, page.more
    return keys


async def _chain(connection: Connection, info: KeyInfo, timeout_s: float) -> str:
    if info.certificate_not_after is None:
        return ""
    try:
        document: PemDocument = await connection.control(
            CertificateExport(key=info.name), timeout_s=timeout_s
        )
    except (NotFound, Refused):
        return ""
    return document.pem


def _checked(keys: Iterable[CachedKey]) -> dict[str, CachedKey]:
    """Keys by name. Raises ProtocolError if a digest is not that of its public key."""
    for key in (checked := list(keys)):
        if hashlib.sha256(key.info.public_key).hexdigest() != key.info.digest:
            raise ProtocolError(f"the digest of key {key.info.name[:64]} is not that of its public key")
    return {key.info.name: key for key in checked}


def _prepare(directory: Path) -> None:
    try:
        directory.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        status = directory.lstat()
    except OSError as error:
        raise ConfigurationError("agent.state", [f"{directory}: {error.strerror}"]) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise ConfigurationError(
            "agent.state", [f"{directory} must be a directory that belongs to the user the agent runs as"]
        )
    if status.st_mode & 0o022:
        raise ConfigurationError(
            "agent.state", [f"other users may write to {directory}; run: chmod 700 {directory}"]
        )
