"""Changes of files that an installation makes, and how each is taken back: pure functions over the texts of files.

A change gives the new text of a file. What remains of it is a trace, with which it can be removed later, provided that the part
of the file that it wrote is still as it was written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.agent.servers import agent_users
from hsmd.cli.base.errors import CommandError

_BEGIN, _END = "# hsmd agent install {}: begin", "# hsmd agent install {}: end"


@dataclass(frozen=True, slots=True)
class Trace:
    """What remains of a change. `content` is the SHA-256 of a file, the target of a link, the text of a block, or a user.

    `key` is the name of the key that the change is for, empty if it is for the server.
    """

    kind: str
    path: str
    content: str
    key: str = ""
    table: str = ""
    """For a user: the table of agent.toml."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one file: `wanted` gives its new text from the present one (None: there is no file), `trace` what remains.

    The text of a symbolic link is where it leads. A file that exists keeps its owner and mode, unless `group` says who reads it.
    """

    path: Path
    wanted: Callable[[str | None], str]
    trace: Callable[[str | None], Trace | None]
    is_link: bool = False
    is_own: bool = True
    """Whether the whole file is ours, so that a new one is made if there is none."""
    group: int | None = None
    """For a file that a server reads as its own user: the group, which may read it."""


def whole(path: Path, text: str, key: str = "") -> Change:
    """A file of our own."""
    trace = Trace("file", str(path), digest(text), key)
    return Change(path, lambda _: text, lambda _: trace)


def link(path: Path, target: str, key: str = "") -> Change:
    """A symbolic link of our own."""
    trace = Trace("link", str(path), target, key)
    return Change(path, lambda _: target, lambda _: trace, is_link=True)


def copy(path: Path, text: str, group: int, key: str) -> Change:
    """A copy of an exported file, which renewals replace: it is removed whatever it contains."""
    trace = Trace("copy", str(path), "", key)
    return Change(path, lambda _: text, lambda _: trace, group=group)


def block(path: Path, server: str, lines: str) -> Change:
    """Lines at the end of a file of the server's package, between two comments."""
    begin, end = _BEGIN.format(server), _END.format(server)
    text = f"{begin}\n{lines}\n{end}\n"

    def wanted(current: str | None) -> str:
        assert current is not None
        if text in current:
            return current
        if begin in current or end in current:
            raise altered(path)
        return current + ("" if not current or current.endswith("\n") else "\n") + text

    return Change(path, wanted, lambda _: Trace("block", str(path), text), is_own=False)


def user(path: Path, name: str, key: str) -> Change:
    """A user that agent.toml allows to use a key."""

    def wanted(current: str | None) -> str:
        assert current is not None
        return agent_users.add(path, current, name, key)

    def trace(current: str | None) -> Trace | None:
        assert current is not None
        table = agent_users.table_of(current, key)
        is_new = wanted(current) != current
        return Trace("user", str(path), name, table=table) if is_new else None

    return Change(path, wanted, trace, is_own=False)


def undone(trace: Trace, current: str) -> str | None:
    """The text of the file without the change; None if the file goes. Raises CommandError if it was altered since."""
    path = Path(trace.path)
    if trace.kind == "copy":
        return None
    if trace.kind == "block":
        if current.count(trace.content) != 1:
            raise altered(path)
        return current.replace(trace.content, "")
    if trace.kind == "user":
        return agent_users.remove(path, current, trace.content, trace.table)
    if trace.content != (current if trace.kind == "link" else digest(current)):
        raise altered(path)
    return None


def altered(path: Path) -> CommandError:
    """The error for a file that was changed since it was installed."""
    return CommandError(
        f"{path} was changed since it was installed, and is left alone",
        "move it away, or restore it, then run the command again",
    )


def digest(text: str) -> str:
    """The SHA-256 of a text, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
