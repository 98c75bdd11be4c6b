"""Carrying out the changes of an installation, and taking them back: shown as a diff first, then all or none that is refused.

Directories of servers may belong to their users, as those of PostgreSQL do: root reads and writes there as that user.
"""

from __future__ import annotations

import difflib
import errno
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.agent.servers import changes
from hsmd.cli.agent.servers.changes import Change, Trace
from hsmd.cli.agent.servers.record import Record
from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.files import PUBLIC
from hsmd.system import atomic_file
from hsmd.system.directories import make_shared
from hsmd.system.places import acting_for

_GROUP_READS = 0o640
_MAX_BYTES = 16 << 20
_OURS = ("/etc/hsmd/haproxy", "/etc/hsmd/postgresql", "/etc/hsmd/installed")
"""Directories that are removed when they are empty, besides those of drop-ins."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A file that changes: its present and its new text, None if it is not there; how it is written."""

    path: Path
    before: str | None
    after: str | None
    is_link: bool = False
    group: int | None = None
    root: Path = Path("/")
    """The directory that it is written below: an image, which may be in a user's directory."""

    @property
    def diff(self) -> list[str]:
        """The lines of a unified diff."""
        name = str(self.path)
        old, new = ("/dev/null" if text is None else name for text in (self.before, self.after))
        return [
            line.rstrip("\n")
            for line in difflib.unified_diff(self._lines(self.before), self._lines(self.after), old, new)
        ]

    def _lines(self, text: str | None) -> list[str]:
        if text is None:
            return []
        return [f"-> {text}\n"] if self.is_link else text.splitlines(keepends=True)


def read(path: Path, *, is_link: bool = False, root: Path = Path("/")) -> str | None:
    """The text of a file, or with `is_link` where a link leads; None if there is none. Raises CommandError for all else."""
    try:
        with acting_for(path, root):
            if is_link and path.is_symlink():
                return os.readlink(path)
            return _text(path)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            f"{path} cannot be read: {_reason(error)}", "see what it is, and move it away"
        ) from None


def _text(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, encoding="utf-8") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_BYTES:
            raise OSError(errno.EINVAL, "it is no regular file, or too long")
        return file.read(_MAX_BYTES)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not text"
    return "it is a link" if error.errno == errno.ELOOP else str(error.strerror)


def planned(wanted: Sequence[Change], root: Path) -> tuple[list[Edit], list[Trace]]:
    """What changes, and the traces of all. Raises CommandError if a change cannot be made."""
    texts: dict[Path, str | None] = {}
    edits: dict[Path, Edit] = {}
    traces = []
    for change in wanted:
        path = root / change.path.relative_to("/")
        if path not in texts:
            texts[path] = read(path, is_link=change.is_link, root=root)
        if texts[path] is None and not change.is_own:
            raise CommandError(f"{path} does not exist", "install the server first")
        if trace := change.trace(texts[path]):
            traces.append(trace)
        before = edits[path].before if path in edits else texts[path]
        texts[path] = change.wanted(texts[path])
        edits[path] = Edit(path, before, texts[path], change.is_link, change.group, root)
    return [edit for edit in edits.values() if edit.before != edit.after], traces


def texts(wanted: Sequence[Change], root: Path) -> dict[Path, str]:
    """The new texts of the files by their paths as the running system sees them; of links, where they lead."""
    found: dict[Path, str] = {}
    for change in wanted:
        below = root / change.path.relative_to("/")
        present = found.get(change.path) or read(below, is_link=change.is_link, root=root)
        found[change.path] = change.wanted(present)
    return found


def altered(edits: Sequence[Edit], record: Record, root: Path) -> str:
    """The first file of our own that would be replaced although it was changed since it was installed; empty if there is none."""
    installed = {
        root / Path(trace.path).relative_to("/"): trace for trace in record.traces if trace.kind == "file"
    }
    for edit in edits:
        trace = installed.get(edit.path)
        if trace is not None and edit.before is not None and changes.digest(edit.before) != trace.content:
            return str(edit.path)
    return ""


def taken_back(record: Record, others: Sequence[Record], root: Path) -> tuple[list[Edit], list[str]]:
    """What changes when an installation is removed, and files that stay because other servers need them.

    Raises CommandError if a file was altered since.
    """
    needed = {_need(trace) for other in others for trace in other.traces}
    edits: dict[Path, Edit] = {}
    kept = []
    for trace in record.traces:
        path = root / Path(trace.path).relative_to("/")
        if _need(trace) in needed:
            kept.append(trace.path)
            continue
        is_link = trace.kind == "link"
        present = edits[path].after if path in edits else read(path, is_link=is_link, root=root)
        if present is None:
            continue
        before = edits[path].before if path in edits else present
        edits[path] = Edit(path, before, changes.undone(trace, present), is_link=is_link, root=root)
    return [edit for edit in edits.values() if edit.before != edit.after], kept


def _need(trace: Trace) -> tuple[str, ...]:
    """What two servers share: a file, or a user in a table of agent.toml."""
    return (trace.path, trace.content, trace.table) if trace.kind == "user" else (trace.path,)


def carry_out(edits: Iterable[Edit]) -> None:
    """Write, replace and remove files. Raises OSError."""
    for edit in edits:
        with acting_for(edit.path, edit.root):
            if edit.after is None:
                edit.path.unlink()
                _remove_if_empty(edit.path.parent)
            elif edit.is_link:
                _link(edit.path, edit.after)
            else:
                _write(edit, edit.after)


def _write(edit: Edit, text: str) -> None:
    """As root, with the owner that the file has, or root and the group that reads it."""
    make_shared(edit.path.parent)
    is_root = os.geteuid() == 0
    if edit.group is not None and is_root:
        atomic_file.replace(edit.path, text, _GROUP_READS, owner=(0, edit.group))
        return
    if edit.before is None:
        atomic_file.replace(edit.path, text, atomic_file.PRIVATE if edit.group is not None else PUBLIC)
        return
    found = edit.path.lstat()
    owner = (found.st_uid, found.st_gid) if is_root else None
    atomic_file.replace(edit.path, text, stat.S_IMODE(found.st_mode), owner=owner)


def _link(path: Path, target: str) -> None:
    make_shared(path.parent)
    staged = path.with_name(f".{path.name}.new")
    staged.unlink(missing_ok=True)
    staged.symlink_to(target)
    staged.replace(path)


def _remove_if_empty(directory: Path) -> None:
    if directory.name.endswith(".d") or str(directory).endswith(_OURS):
        with suppress(OSError):
            directory.rmdir()
