"""A second daemon that shares the store and the token of another one, with a log of its own."""

from __future__ import annotations

import copy
import shutil
import socket
from pathlib import Path

from tests.support.daemon import Daemon


def twin_of(first: Daemon, directory: Path) -> Daemon:
    """A daemon, not started, with the clients of `first`, which has its own name, directory and address."""
    directory.mkdir(parents=True)
    made = copy.copy(first)
    made.directory = directory
    made.config = directory / "hsmd.toml"
    made.log_path = directory / "log"
    made.audit_path = directory / "audit" / "audit.jsonl"
    made.addresses = [f"127.0.0.1:{free_port()}"]
    made.process = None
    for name in ("host_key", *made.keys):
        shutil.copy(first.directory / name, directory / name)
    made.write()
    made.config.write_text(made.config.read_text().replace('name = "test"', 'name = "twin"', 1))
    return made


def free_port() -> int:
    """A fixed port, so that a restarted front listens where the old one did."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
