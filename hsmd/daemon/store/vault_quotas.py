"""How much an owner may keep in the vault. What ends or re-wraps a key may go beyond by a reserve: a full vault is no trap."""

from __future__ import annotations

MAX_VERSIONS = 10_000
"""Versions of an owner's records that are not destroyed."""
MAX_BYTES = 64 * 1024 * 1024
"""Envelopes, statements and public halves of an owner, those that are left of destroyed versions included."""
RESERVED_BYTES = 16 * 1024 * 1024
"""What replacing a management key may take beyond that."""
MAX_STATEMENTS = 1_000
"""Statements about one version."""
RESERVED_STATEMENTS = 100
"""What replacing management keys may take beyond that. The end of a version is a few statements, and never refused."""
MAX_MANAGEMENT_KEYS = 1_000
MAX_ALLOWED = 100
"""Clients that an owner has named to check keys; each reads the events about them."""
CHECK_SUMS_KEPT_DAYS = 400
