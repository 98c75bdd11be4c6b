"""asyncssh, imported without the programs that it would start to search for C libraries."""

from __future__ import annotations

from hsmd.system.libraries import by_soname

with by_soname():
    import asyncssh

__all__ = ["asyncssh"]
