"""Creation of a backup on a daemon's host, whether the daemon runs or not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import IO

import hsmd
from hsmd.daemon.backup.archive import CHECKPOINT, CONFIGURATION, FORMAT, HOST_KEY, STORE, Manifest
from hsmd.daemon.backup.archive_writer import Source, write
from hsmd.daemon.config.settings import Config
from hsmd.daemon.store import Store
from hsmd.system.log_files import LIVE_NAME, SEGMENTS, SegmentDirectory
from hsmd.transparency.records import CHECKPOINT_EVENT

_CHECKPOINT_RECORD = f'"event":"{CHECKPOINT_EVENT}"'.encode()


def create(config: Config, target: IO[bytes], now: datetime, *, host_key: bool, audit: bool) -> Manifest:
    """Write the archive. Raises StoreFailure, OSError for a file that cannot be read, BadRequest if one was truncated."""
    store = Store(config.store_url)
    try:
        rows = store.export()
    finally:
        store.close()
    sources = [Source.of(STORE, rows), Source.of(CONFIGURATION, config.path)]
    if host_key:
        sources.append(Source.of(HOST_KEY, config.listen.host_key))
    with ExitStack() as opened:
        log = _files(config.audit.directory, opened)
        if (record := _newest_checkpoint(log)) is not None:
            sources.append(Source.of(CHECKPOINT, record))
        if audit:
            sources += [Source.of(f"audit/{name}", path) for name, path in log]
        describe = Manifest(FORMAT, hsmd.__version__, config.name, now, revision_of(rows), [])
        return write(target, sources, describe)


def revision_of(rows: bytes) -> str:
    """The revision of the schema in an export of a store."""
    from hsmd.daemon.store.portable import decode

    return decode(rows).revision


def _newest_checkpoint(log: Sequence[tuple[str, Path]]) -> bytes | None:
    """The newest checkpoint record in the log's files, or None."""
    for _, path in reversed(log):
        newest = None
        with path.open("rb") as file:
            for line in file:
                if _CHECKPOINT_RECORD in line and line.endswith(b"\n"):
                    newest = line
        if newest is not None:
            return newest
    return None


def _files(directory: Path, opened: ExitStack) -> list[tuple[str, Path]]:
    """The log's files as (name in the archive, path to read): sealed segments in order, then the live file.

    The live file is read through its descriptor, because it may be sealed and replaced meanwhile.
    """
    try:
        live = opened.enter_context((directory / LIVE_NAME).open("rb")).fileno()
    except FileNotFoundError:
        return _segments(directory, None)
    return [*_segments(directory, live), (LIVE_NAME, Path(f"/proc/self/fd/{live}"))]


def _segments(directory: Path, live: int | None) -> list[tuple[str, Path]]:
    try:
        with SegmentDirectory(directory, links=True) as segments:
            names = [segment.name for segment in segments.list(live)]
    except FileNotFoundError:
        return []
    return [(f"{SEGMENTS}/{name}", directory / SEGMENTS / name) for name in names]
