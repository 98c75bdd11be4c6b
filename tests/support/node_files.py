"""Configuration files of nodes for tests."""

from __future__ import annotations

from pathlib import Path

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43


def node_toml(directory: Path, program: str = 'kind = "haproxy"', rest: str = "") -> str:
    """A configuration with its files below a directory."""
    return f"""
[node]
client = "web1"
identity = "{directory}/node_ed25519"
state = "{directory}/state"

[certificate]
authority = "root"

[program]
{program}
files = "{directory}/files"
{rest}
[[daemon]]
address = "192.0.2.1"
host_keys = ["{HOST_KEY}"]
"""
