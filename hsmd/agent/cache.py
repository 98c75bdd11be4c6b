"""The agent's cache of its keys: names, public halves and certificates, all of it public, in memory and in one file.

With it, TLS servers can start while the daemon is not reachable.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import msgspec

from hsmd import observe
from hsmd.deployment.pair import check_name
from hsmd.errors import BadRequest, ConfigurationError, ProtocolError
from hsmd.protocol.messages import KeyInfo
from hsmd.system import atomic_file

FILE_NAME = "keys.json"
MAX_FILE_BYTES = 1 << 30
"""More than `MAX_KEYS` keys (hsmd/agent/fetch.py) with the longest chains take."""
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

    @property
    def rule_name(self) -> str:
        """The name by which agent.toml allows its use: for both keys of a replacement, the name that it is about.

        That is also so after a switch back, when the new key keeps its grants and its certificate.
        """
        replacement = self.info.replacement
        if replacement is None:
            return self.info.name
        return replacement.key if replacement.switched_at is None else replacement.successor


class _File(msgspec.Struct):
    """The file's content."""

    version: int
    keys: list[CachedKey]


class Cache:
    """The keys by name, in memory and in the state directory. `complete`: all of them were fetched at least once.

    `unstored` is set when the file is to be written: see `store`; `unpublished` when servers may have to get other certificates.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keys: dict[str, CachedKey] = {}
        self._names: list[str] = []
        self._digests: dict[str, tuple[str, bytes]] = {}
        self.complete = False
        self.unstored = asyncio.Event()
        self.unpublished = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

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
            for key in stored.keys:
                check(key)
            self._take({key.info.name: key for key in stored.keys})
            self.complete = True
        except FileNotFoundError:
            return
        except (OSError, ValueError, ProtocolError) as error:
            log.warning("cache.unusable", path=str(path), error=str(error))

    def replace(self, keys: Iterable[CachedKey]) -> bool:
        """Replace all keys by those of a daemon, which were checked; return whether anything changed."""
        fresh = {key.info.name: key for key in keys}
        changed = fresh != self._keys or not self.complete
        self.complete = True
        if changed:
            self._take(fresh)
            self._note_change()
        return changed

    def put(self, key: CachedKey) -> bool:
        """Add or replace one key, which was checked; return whether anything changed."""
        name = key.info.name
        changed = self._keys.get(name) != key
        if changed:
            if name not in self._keys:
                insort(self._names, name)
            self._keys[name] = key
            self._digests[name] = key.rule_name, key.digest
            self._note_change()
        return changed

    def forget(self, name: str) -> bool:
        """Remove a key that the daemon no longer has or grants; return whether it was in the cache."""
        known = self._keys.pop(name, None) is not None
        if known:
            del self._digests[name]
            del self._names[bisect_left(self._names, name)]
            self._note_change()
        return known

    def _note_change(self) -> None:
        self.unstored.set()
        self.unpublished.set()

    def get(self, name: str) -> CachedKey | None:
        """The key of this name."""
        return self._keys.get(name)

    def names(self) -> list[str]:
        """All names, sorted. The caller does not change the list."""
        return self._names

    def keys(self) -> list[CachedKey]:
        """All keys, in no order."""
        return list(self._keys.values())

    def digests(self) -> Collection[tuple[str, bytes]]:
        """(name by which agent.toml allows it, digest) of all keys."""
        return self._digests.values()

    def _take(self, keys: dict[str, CachedKey]) -> None:
        self._keys = keys
        self._names = sorted(keys)
        self._digests = {name: (key.rule_name, key.digest) for name, key in keys.items()}

    async def store(self) -> None:
        """Write the file, in a thread. A failure is logged; the keys in memory remain usable.

        The thread goes on if the caller is cancelled; `settle` waits for it.
        """
        self.unstored.clear()
        keys = [self._keys[name] for name in self._names]
        self._writing = asyncio.create_task(self._write(_document(keys)))
        await asyncio.shield(self._writing)

    async def settle(self) -> None:
        """Return when everything is in the file, or could not be written."""
        if self._writing is not None:
            await self._writing
        if self.unstored.is_set():
            await self.store()

    async def _write(self, document: Iterator[bytes]) -> None:
        try:
            await asyncio.to_thread(atomic_file.replace, self._directory / FILE_NAME, document)
        except OSError as error:
            log.error("cache.not_stored", path=str(self._directory), error=str(error))


def check(key: CachedKey) -> None:
    """Raises ProtocolError if a digest is not that of its public key, or the name cannot be that of a file."""
    try:
        check_name(key.info.name)
    except BadRequest:
        raise ProtocolError(
            f"the daemon has a key with the name {key.info.name[:64]!r}, which is none"
        ) from None
    if hashlib.sha256(key.info.public_key).hexdigest() != key.info.digest:
        raise ProtocolError(f"the digest of key {key.info.name[:64]} is not that of its public key")


def _document(keys: list[CachedKey]) -> Iterator[bytes]:
    """The JSON of a `_File` in pieces, so that a thread that encodes it does not keep the event loop waiting."""
    encoder = msgspec.json.Encoder()
    yield b'{"version":1,"keys":['
    for number, key in enumerate(keys):
        yield (b"," if number else b"") + encoder.encode(key)
    yield b"]}"


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
