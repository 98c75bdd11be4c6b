"""The servers that use exported keys, as root has listed them: a file NAME.toml for each in /etc/hsmd/servers.d.

directories = ["/etc/hsmd/keys"]    # where it reads chains and key references; this is the default
keys = ["www"]                      # names of the keys that it uses; default: all that are exported there
unit = "nginx.service"              # reloaded with systemctl, if it is active; or command = ["...", "..."], or neither
timeout_s = 60                      # for the reload
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hsmd.deployment import pair, trusted
from hsmd.errors import BadRequest, ConfigurationError
from hsmd.system.toml_table import TomlTable, parse_text, read_readable

SUFFIX = ".toml"
TIMEOUT_S = 60
LONGEST_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Server:
    """A server, or only a place of exported keys if there is nothing to reload. Without `keys` it uses all that are there."""

    name: str
    directories: tuple[Path, ...]
    keys: frozenset[str] = frozenset()
    unit: str = ""
    command: tuple[str, ...] = ()
    timeout_s: int = TIMEOUT_S

    def uses(self, key: str, directory: Path) -> bool:
        """Whether it has to be reloaded when this key's files in this directory change."""
        return directory in self.directories and (not self.keys or key in self.keys)


def load(directory: Path, default: Path) -> tuple[list[Server], list[ConfigurationError]]:
    """The servers listed in `directory`, which read `default` unless they say otherwise, and the faults of files left out.

    Raises ConfigurationError if another user could change the list.
    """
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(SUFFIX) and name[0] != ".")
        trusted.check_way(directory)
        trusted.check(directory, directory.stat())
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise ConfigurationError(str(directory), [f"cannot be read: {error.strerror}"]) from None
    servers, faults = [], []
    for name in names:
        try:
            servers.append(_load(directory / name, default))
        except ConfigurationError as error:
            faults.append(error)
    return servers, faults


def _load(path: Path, default: Path) -> Server:
    try:
        text = read_readable(path, lambda found: trusted.check(path, found))
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror}"]) from None
    faults: list[str] = []
    server = _server(path.stem, TomlTable(parse_text(text, str(path)), "", faults, path.parent), default)
    if faults:
        raise ConfigurationError(str(path), faults)
    return server


def _server(name: str, table: TomlTable, default: Path) -> Server:
    directories = [Path(text) for text in table.strings("directories", (str(default),))]
    for each in directories:
        if not each.is_absolute() or ".." in each.parts:
            table.fault("directories", f"{str(each)[:80]!r} must be an absolute path without ..")
    keys = table.strings("keys", ())
    for key in keys:
        try:
            pair.check_name(key)
        except BadRequest:
            table.fault("keys", f"{key[:80]!r} is not the name of a key")
    unit, command = table.text("unit"), table.strings("command", ())
    if unit and command:
        table.fault("command", "give either unit or command")
    if unit.startswith("-") or (command and not command[0].startswith("/")):
        table.fault(
            "unit" if unit else "command", "must be the name of a unit, or a program with its absolute path"
        )
    timeout_s = table.number("timeout_s", TIMEOUT_S, 1, LONGEST_TIMEOUT_S)
    table.end()
    return Server(name, tuple(directories), frozenset(keys), unit, tuple(command), timeout_s)
