"""`hsmd init --like`: the configuration of another daemon of the fleet, whose store and token the new one shares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hsmd.cli.base.errors import CommandError, Exit

if TYPE_CHECKING:
    from hsmd.daemon.config.settings import Config


def load_shared(file: Path) -> Config:
    """The configuration of another daemon of the fleet. Raises CommandError if its store or token cannot be shared."""
    from hsmd.daemon.config.reader import load
    from hsmd.daemon.store import Store

    config = load(file.absolute())
    if config.store_url.startswith("sqlite:"):
        raise CommandError(
            f"the store in {file} is SQLite, which only the daemon of that host can use",
            "move it to PostgreSQL first (docs/day2.md, several daemons)",
            Exit.USAGE,
        )
    if len(config.tokens) != 1:
        raise CommandError(
            f"{file} has {len(config.tokens)} tokens, and --like is for one",
            "copy and edit the file",
            Exit.USAGE,
        )
    store = Store(config.store_url)
    try:
        store.needs_upgrade()
    finally:
        store.close()
    return config
