"""Taking a backup of a daemon's host, while the daemon runs or not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

import hsmd
from hsmd.daemon.backup.archive import (
    CHECKPOINT,
    CONFIGURATION,
    FORMAT,
    HOST_KEY,
    STORE,
    Manifest,
    Source,
    write,
)
from hsmd.daemon.settings import Config
from hsmd.daemon.store import Store

_CHECKPOINT_RECORD = b'"event":"log.checkpoint"'
_SEGMENT = re.compile(r"[0-9]{12}\.jsonl\Z")


def take(config: Config, target: IO[bytes], now: datetime, *, host_key: bool, audit: bool) -> Manifest:
    """Write the archive. Raises StoreFailure, OSError for what cannot be read, BadRequest."""
    store = Store(config.store_url)
    try:
        rows = store.export()
    finally:
        store.close()
    sources = [Source.of(STORE, rows), Source.of(CONFIGURATION, config.path)]
    if host_key:
        sources.append(Source.of(HOST_KEY, config.listen.host_key))
    if (record := newest_checkpoint(config.audit.directory)) is not None:
        sources.append(Source.of(CHECKPOINT, record))
    if audit:
        sources += _log(config.audit.directory)
    describe = Manifest(FORMAT, hsmd.__version__, config.name, now, revision_of(rows), [])
    return write(target, sources, describe)


def revision_of(rows: bytes) -> str:
    """The schema's revision in an export of a store."""
    from hsmd.daemon.store.portable import decode

    return decode(rows).revision


def newest_checkpoint(directory: Path) -> bytes | None:
    """The record of the log's newest checkpoint, from whichever file has it; None if there is none."""
    for path in reversed(list(_files(directory))):
        newest = None
        with path.open("rb") as file:
            for line in file:
                if _CHECKPOINT_RECORD in line and line.endswith(b"\n"):
                    newest = line
        if newest is not None:
            return newest
    return None


def _log(directory: Path) -> list[Source]:
    return [Source.of(f"audit/{path.relative_to(directory)}", path) for path in _files(directory)]


def _files(directory: Path) -> Iterator[Path]:
    """Sealed segments in their order, then the live one."""
    segments = directory / "segments"
    if segments.is_dir():
        yield from sorted(path for path in segments.iterdir() if _SEGMENT.match(path.name))
    live = directory / "audit.jsonl"
    if live.is_file():
        yield live
