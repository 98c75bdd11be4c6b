"""C libraries by the names that programs are linked to, without a search.

`ctypes.util.find_library` starts ldconfig, and for what is not installed also gcc, ld and objdump: programs that no service
should need. Packages of others call it while they are imported; here they get the names of Debian and of other Linux systems.
"""

from __future__ import annotations

import ctypes.util
from collections.abc import Iterator
from contextlib import contextmanager

_SONAMES: dict[str, str | None] = {
    "c": "libc.so.6",
    "seccomp": "libseccomp.so.2",
    # What asyncssh would use them for, UMAC and sntrup761, is not in our SSH profile.
    "nettle": None,
    "libnettle": None,
    "libnettle-6": None,
    "oqs": None,
    "liboqs": None,
}


@contextmanager
def by_soname() -> Iterator[None]:
    """Answer `find_library` from the table while packages are imported; for names that are not in it, it searches as ever."""
    search = ctypes.util.find_library
    ctypes.util.find_library = lambda name: _SONAMES[name] if name in _SONAMES else search(name)
    try:
        yield
    finally:
        ctypes.util.find_library = search
