"""The settings of a haproxy.cfg that decide which files and sockets HAProxy reaches: chroot, user and group of `global`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hsmd.system.input_files import read_file

CONFIGURATION = Path("/etc/haproxy/haproxy.cfg")
# fmt: off
_SECTIONS = frozenset({
    "backend", "cache", "crt-list", "defaults", "dynamic-update", "frontend", "http-errors", "listen", "log-forward", "mailers",
    "peers", "program", "resolvers", "ring", "userlist",
})
# fmt: on
_MAX_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """`chroot` is None without one; user and group are names or numbers, empty if HAProxy keeps those that it is started with."""

    chroot: Path | None = None
    user: str = ""
    group: str = ""


def read(path: Path) -> Settings:
    """Those in a configuration file; none if it cannot be read."""
    try:
        text = read_file(path, _MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return Settings()
    found: dict[str, str] = {}
    in_global = False
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if words[0] == "global" or words[0] in _SECTIONS:
            in_global = words[0] == "global"
        elif in_global and len(words) > 1:
            found[words[0]] = words[1].strip("\"'")
    return Settings(
        Path(found["chroot"]) if "chroot" in found else None,
        found.get("user", found.get("uid", "")),
        found.get("group", found.get("gid", "")),
    )
