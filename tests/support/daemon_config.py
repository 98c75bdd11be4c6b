"""A minimal valid hsmd.toml."""

from __future__ import annotations

GOOD = """
[listen]
addresses = ["192.0.2.1:7440", "[2001:db8::1]"]
host_key = "host_key"
[store]
url = "sqlite:///hsmd.db"
[audit]
directory = "audit"
[[token]]
name = "main"
module = "/usr/lib/softhsm/libsofthsm2.so"
label = "hsmd"
pin_file = "pin"
environment = { SOFTHSM2_CONF = "/etc/softhsm2.conf" }
workers = 2
"""
