"""The users in the text of an agent.toml: adds one to the list for a key, and takes it back, leaving the rest as it is."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.toml import quote

_DEFAULTS = "defaults"
_HEADER = re.compile(r"^\s*\[")
_USERS = re.compile(r"^(\s*users\s*=\s*)\[.*\](\s*(?:#.*)?)$")


def table_of(text: str, key: str) -> str:
    """The table that says who may use a key: its own, otherwise the defaults."""
    own = _parsed(text).get("keys", {}).get(key, {})
    return f"keys.{key}" if key and "users" in own else _DEFAULTS


def add(path: Path, text: str, user: str, key: str) -> str:
    """`text` with `user` among those who may use `key`. Raises CommandError if only an editor can change the file."""
    table = table_of(text, key)
    users = _users(text, table)
    if user in users or "*" in users:
        return text
    return _replaced(path, text, table, [*users, user], f"add {user} to `users` in its table [{table}]")


def remove(path: Path, text: str, user: str, table: str) -> str:
    """`text` without `user` in this table."""
    users = _users(text, table)
    if user not in users:
        return text
    left = [each for each in users if each != user]
    return _replaced(path, text, table, left, f"remove {user} from `users` in its table [{table}]")


def _replaced(path: Path, text: str, table: str, users: list[str], step: str) -> str:
    lines = text.split("\n")
    made = f"[{', '.join(map(quote, users))}]"
    begin = next((at for at, line in enumerate(lines) if line.split("#")[0].strip() in _headers(table)), None)
    if begin is None:
        lines = [*text.rstrip("\n").split("\n"), "", f"[{table}]", f"users = {made}", ""]
    else:
        at = begin + 1
        while at < len(lines) and not _HEADER.match(lines[at]) and not _USERS.match(lines[at]):
            at += 1
        found = _USERS.match(lines[at]) if at < len(lines) else None
        if found:
            lines[at] = f"{found[1]}{made}{found[2]}"
        else:
            lines.insert(begin + 1, f"users = {made}")
    changed = "\n".join(lines)
    try:
        is_changed = _users(changed, table) == users
    except CommandError:
        is_changed = False
    if not is_changed:
        raise CommandError(f"{path} cannot be edited automatically", f"{step}, then run the command again")
    return changed


def _headers(table: str) -> tuple[str, ...]:
    first, _, key = table.partition(".")
    return (f"[{table}]", f"[{first}.{json.dumps(key)}]") if key else (f"[{first}]",)


def _users(text: str, table: str) -> list[str]:
    found: Any = _parsed(text)
    first, _, key = table.partition(".")
    for name in (first, key) if key else (first,):
        found = found.get(name, {})
    return [str(user) for user in found.get("users", [])]


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CommandError(
            f"agent.toml is not valid TOML: {error}", "correct it and run the command again"
        ) from None
