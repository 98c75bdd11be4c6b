"""What `hsmd restore` prints about the audit logs from which it recounted uses of keys in the vault and of limited grants."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsmd.daemon.backup.recount import LogRead, Raised, Recount


def document(recount: Recount, raised: Raised) -> dict[str, object]:
    """The logs, and what they changed, as members of a JSON document."""
    logs = [
        {
            "path": str(log.path),
            "origin": log.origin,
            "from_backup": log.from_backup,
            "records": log.records,
            "missing": log.missing,
            "until": log.until,
            "acquisitions": log.acquisitions,
            "grant_uses": log.grant_uses,
            "not_in_backup": log.not_in_backup,
            "complete": log.complete,
        }
        for log in recount.logs
    ]
    return {
        "logs": logs,
        "versions_raised": raised.versions,
        "grants_raised": raised.grants,
        "uncounted": recount.uncounted,
    }


def rows(recount: Recount, raised: Raised) -> list[tuple[str, str]]:
    """The same as text."""
    found = [("audit log", _described(log)) for log in recount.logs]
    if recount.has_counts:
        found.append(
            (
                "counts",
                f"raised for {raised.versions} versions of keys in the vault and {raised.grants} limited grants",
            )
        )
        found.append(("uncounted", ", ".join(recount.uncounted)))
    return found


def step(recount: Recount) -> str:
    """What is left to do about counts; empty without keys in the vault."""
    if not recount.has_versions:
        return ""
    if not recount.uncounted:
        return (
            "Counts of uses in the vault are those of the logs that were read: if a daemon came to share the store after the "
            "backup, and its log was not given, they may be too low"
        )
    return (
        f"Tell the owners that counts of uses in the vault may be too low, so that they state limits with that in mind: no "
        f"complete log was read of {', '.join(recount.uncounted)}. If you have one, restore again, into an empty database, and "
        f"name it with --log; archived segments belong into segments/ of a copy"
    )


def _described(log: LogRead) -> str:
    whose = f" of {log.origin}" if log.origin else ", without a checkpoint that names its daemon"
    parts = [f"{log.path}{whose}: {log.records} records"]
    if log.until:
        parts.append(f"until {log.until}")
    if log.missing:
        parts.append(f"{log.missing} not there")
    parts += [f"{log.acquisitions} acquisitions", f"{log.grant_uses} uses of limited grants"]
    if log.not_in_backup:
        parts.append(f"{log.not_in_backup} of them of versions or grants that the backup does not have")
    if log.from_backup:
        parts.append("ends with the backup")
    return ", ".join(parts)
