"""What `hsmd backup` and `hsmd restore` print about an archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsmd.daemon.backup.archive import Manifest


def document(file: Path, manifest: Manifest) -> dict[str, object]:
    """What --json says of an archive."""
    return {
        "file": str(file),
        "daemon": manifest.daemon,
        "release": manifest.release,
        "created_at": manifest.created_at.isoformat(),
        "revision": manifest.revision,
        "files": [
            {"name": entry.name, "size": entry.size, "sha256": entry.sha256} for entry in manifest.files
        ],
    }


def rows(file: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """The same for a person; `file` is what was made."""
    return [
        ("file", str(file)),
        ("daemon", manifest.daemon),
        ("made", manifest.created_at.isoformat(timespec="seconds")),
        ("holds", ", ".join(entry.name for entry in manifest.files)),
    ]
