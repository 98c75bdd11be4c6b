"""What `hsmd backup` and `hsmd restore` print about an archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hsmd.cli.base.output import when

if TYPE_CHECKING:
    from hsmd.daemon.backup.archive import Manifest


def document(file: Path, manifest: Manifest) -> dict[str, object]:
    """The archive as a JSON document."""
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
    """The archive as text; `file` is the file that was written."""
    return [
        ("file", str(file)),
        ("daemon", manifest.daemon),
        ("created", when(manifest.created_at)),
        ("contains", ", ".join(entry.name for entry in manifest.files)),
    ]
