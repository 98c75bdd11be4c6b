"""What `hsmd agent install` has changed for each server: a file per server, with which it is taken back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hsmd.cli.agent.servers.changes import Trace
from hsmd.cli.agent.servers.plan import Plan
from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.files import PUBLIC
from hsmd.system import atomic_file
from hsmd.system.directories import make_shared

DIRECTORY = Path("/etc/hsmd/installed")


@dataclass(frozen=True, slots=True)
class Record:
    """An installation: its server, the files of each of its keys (reference and chain), and the traces of its changes.

    `user` is the server's user if it was named, empty for the one of its configuration; `unit` its systemd unit.
    """

    server: str
    files: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)
    traces: tuple[Trace, ...] = ()
    user: str = ""
    unit: str = ""

    def with_changes(self, plan: Plan, user: str, traces: Iterable[Trace]) -> Record:
        """The record after further changes; of two changes of the same kind to the same file, the later counts."""
        by_place = {_place(trace): trace for trace in (*self.traces, *traces)}
        return Record(self.server, {**self.files, **plan.files}, tuple(by_place.values()), user, plan.unit)


def _place(trace: Trace) -> tuple[str, ...]:
    user = (trace.content, trace.table) if trace.kind == "user" else ()
    return (trace.kind, trace.path, *user)


def load_all(root: Path) -> dict[str, Record]:
    """All records below `root` by server. Raises CommandError for one that cannot be read."""
    directory = root / DIRECTORY.relative_to("/")
    return {path.stem: _load(path) for path in sorted(directory.glob("*.json"))}


def _load(path: Path) -> Record:
    try:
        found = json.loads(path.read_text())
        traces = tuple(Trace(**each) for each in found["traces"])
        files = {key: (Path(reference), Path(chain)) for key, (reference, chain) in found["files"].items()}
        return Record(found["server"], files, traces, found.get("user", ""), found.get("unit", ""))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandError(
            f"{path} cannot be read: {error}", "restore it, or remove what it lists by hand"
        ) from None


def store(root: Path, record: Record) -> None:
    """Write a record, or remove its file if nothing is left in it."""
    path = root / DIRECTORY.relative_to("/") / f"{record.server}.json"
    if not record.traces:
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
        return
    make_shared(path.parent)
    document = {
        "server": record.server,
        "user": record.user,
        "unit": record.unit,
        "files": {key: [str(path) for path in paths] for key, paths in record.files.items()},
        "traces": [asdict(trace) for trace in record.traces],
    }
    atomic_file.replace(path, json.dumps(document, indent=1) + "\n", PUBLIC)
