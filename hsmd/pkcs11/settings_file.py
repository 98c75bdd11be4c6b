"""Reading which token to open from TOML: a file of a program's own, and what it shares with the daemon's [[token]] sections.

The file of an owner, depositary or node names its token in one section:

    [token]
    module = "/usr/lib/softhsm/libsofthsm2.so"
    label = "owner"            # or serial = "..." or slot = 0
    pin_file = "owner.pin"     # or prompt = true: the PIN is asked for on the terminal
    lock_file = "owner.lock"   # optional

Relative paths are relative to the file. Does not import python-pkcs11.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from hsmd.errors import ConfigurationError
from hsmd.pkcs11.settings import TokenSettings
from hsmd.system.toml_table import TomlTable, parse_text, read_text


def read_token_file(path: Path, *, read_write: bool = False) -> TokenSettings:
    """The settings of the token in a program's own file. With `read_write` the session can create and destroy objects.

    Raises ConfigurationError with all faults. A file that others could change is refused: it names code that will be run.
    """

    def check(found: os.stat_result) -> None:
        _check_nobody_else_writes(path, found)

    hint = "; it must hold a section [token] with module, label and pin_file (or prompt = true)"
    text = read_text(path, missing_hint=hint, check=check)
    faults: list[str] = []
    top = TomlTable(parse_text(text, str(path)), "", faults, path.parent)
    settings = _own_token(top.table("token"))
    top.end()
    if faults:
        raise ConfigurationError(str(path), faults)
    return msgspec.structs.replace(settings, name=str(path), read_write=read_write)


def read_token_selection(table: TomlTable) -> TokenSettings:
    """What each table about a token has: the module, which of its tokens, the file with the PIN, and the lock file."""
    slot = table.number("slot", -1, 0, 2**32)
    settings = TokenSettings(
        module=str(table.file("module", None)),
        label=table.text("label"),
        serial=table.text("serial"),
        slot=None if slot == -1 else slot,
        pin_file=_optional(table, "pin_file"),
        lock_file=_optional(table, "lock_file"),
    )
    if sum([bool(settings.label), bool(settings.serial), settings.slot is not None]) != 1:
        table.fault("label", "choose the token by exactly one of label, serial and slot")
    return settings


def _own_token(table: TomlTable) -> TokenSettings:
    settings = msgspec.structs.replace(read_token_selection(table), prompt=table.flag("prompt", False))
    if bool(settings.pin_file) == settings.prompt:
        table.fault("pin_file", "name a pin_file, or set prompt = true to be asked for the PIN; not both")
    table.end()
    return settings


def _optional(table: TomlTable, key: str) -> str:
    path = table.optional_file(key)
    return "" if path is None else str(path)


def _check_nobody_else_writes(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(str(path), ["is not a regular file"])
    if found.st_mode & 0o022:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigurationError(
            str(path), [f"has mode {mode:04o}; others could make it name another module: chmod go-w {path}"]
        )
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(
            str(path),
            ["belongs to another user, who could make it name another module; use a file of your own"],
        )
