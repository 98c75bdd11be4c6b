"""Changing which host keys agent.toml and operator.toml pin, without changing anything else in the file."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path

from hsmd.cli.base import ssh_keys
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.input_files import text as text_of
from hsmd.cli.base.toml import quote
from hsmd.system import atomic_file
from hsmd.system.places import acting_for

_MAX_BYTES = 1 << 20
_ARRAY = re.compile(r"^(?P<start>[ \t]*host_keys[ \t]*=[ \t]*)(?P<array>\[[^\[\]]*\])", re.MULTILINE)


def pin_beside(file: Path, old: str, new: str) -> bool:
    """Accept the host key `new` wherever `file` accepts `old`; return whether the file was changed.

    Raises CommandError if `old` is pinned nowhere in it.
    """
    if not _is_pinned(file, old):
        raise CommandError(
            f"{file} does not pin {ssh_keys.parse(old).fingerprint}",
            "give the host key that the daemon has now; nothing was changed",
        )
    return _change(file, lambda keys: [*keys, new] if _has(keys, old) and not _has(keys, new) else keys)


def unpin(file: Path, old: str) -> bool:
    """Accept the host key `old` no longer; return whether the file was changed. Raises CommandError if no other one is pinned."""

    def without(keys: list[str]) -> list[str]:
        left = [key for key in keys if _bare(key) != _bare(old)]
        if not left:
            raise CommandError(
                f"{file} pins no other host key for this daemon",
                "pin the next one first: hsmd host-key pin; nothing was changed",
            )
        return left

    return _change(file, without)


def _is_pinned(file: Path, key: str) -> bool:
    return any(_has(_keys(found["array"]), key) for found in _ARRAY.finditer(_read(file)))


def _change(file: Path, change: Callable[[list[str]], list[str]]) -> bool:
    before = _read(file)

    def rewritten(found: re.Match[str]) -> str:
        keys = _keys(found["array"])
        after = change(keys)
        return found[0] if after == keys else found["start"] + _array(after, lines="\n" in found["array"])

    after = _ARRAY.sub(rewritten, before)
    if after == before:
        return False
    tomllib.loads(after)
    with acting_for(file):
        status = file.stat()
        owner = (status.st_uid, status.st_gid) if os.geteuid() == 0 else None
        atomic_file.replace(file, after, stat.S_IMODE(status.st_mode), owner=owner)
    return True


def _read(file: Path) -> str:
    with acting_for(file):
        text = text_of(file, _MAX_BYTES)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CommandError(f"{file}: {error}", "correct the file", Exit.USAGE) from None
    return text


def _keys(array: str) -> list[str]:
    return [str(key) for key in tomllib.loads(f"keys = {array}")["keys"]]


def _array(keys: list[str], *, lines: bool) -> str:
    if lines:
        return "[\n" + "".join(f"    {quote(key)},\n" for key in keys) + "]"
    return f"[{', '.join(map(quote, keys))}]"


def _has(keys: list[str], key: str) -> bool:
    return any(_bare(each) == _bare(key) for each in keys)


def _bare(key: str) -> str:
    """Type and base64 of a line, without a comment; a host CA keeps its prefix."""
    words = key.split()
    return " ".join(words[:3] if words[:1] == ["cert-authority"] else words[:2])
