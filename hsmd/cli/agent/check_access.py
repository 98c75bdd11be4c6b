"""Whether another user of this host may use a file: asked as that user, or told from the mode bits without root."""

from __future__ import annotations

import os
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.agent.check_results import Finding, bad, good
from hsmd.cli.agent.handshake import Actor
from hsmd.system.host_users import Account

_PERMISSIONS = "permissions"
_BITS = {"-x": stat.S_IXOTH, "-r": stat.S_IROTH, "-w": stat.S_IWOTH}
_TEST = "/usr/bin/test"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file, what a user does with it (a word for messages), and the operator of test(1) that tells whether it may."""

    path: Path
    does: str
    operator: str
    fix: str = ""
    """What lets the user use the file. Default: permissions for all."""


def check(actor: Actor, wanted: Wanted) -> Finding:
    """Check that a server's user, with the groups that the server keeps, may enter all directories and use the file."""
    assert actor.account is not None
    account, user = actor.account, actor.account.name
    try:
        refused = _first_refused(account, frozenset(actor.groups) | {account.gid}, wanted)
    except OSError as error:
        return bad(_PERMISSIONS, f"{error.filename}: {error.strerror}", "run the check as root")
    if refused is None:
        return good(_PERMISSIONS, f"{user} may {wanted.does} {wanted.path}")
    if refused == wanted.path and wanted.operator == "-w":
        fix = f"add {user} to `users` in agent.toml, then: systemctl reload hsmd-agent"
    elif refused == wanted.path:
        fix = wanted.fix or f"run: chmod o+r {refused}"
    else:
        fix = f"run: chmod o+x {refused}"
    return bad(
        _PERMISSIONS, f"{user} may not {wanted.does if refused == wanted.path else 'enter'} {refused}", fix
    )


def _first_refused(account: Account, groups: frozenset[int], wanted: Wanted) -> Path | None:
    """The first directory on the way that the user may not enter, or the file; None if it may do all."""
    for step in [*reversed(wanted.path.parents), wanted.path]:
        status = step.stat()
        if not _may(account, groups, step, status, wanted.operator if step == wanted.path else "-x"):
            return step
    return None


def _may(account: Account, groups: frozenset[int], path: Path, status: os.stat_result, operator: str) -> bool:
    if os.geteuid() == 0 and os.access(_TEST, os.X_OK):
        asked = subprocess.run(
            [_TEST, operator, str(path)],
            env={},  # of a process of another user it could be read
            user=account.uid,
            group=account.gid,
            extra_groups=sorted(groups),
            check=False,
            capture_output=True,
        )
        return asked.returncode == 0
    bit = _BITS[operator]
    if account.uid == 0:
        return True
    if status.st_uid == account.uid:
        return bool(status.st_mode & (bit << 6))
    return bool(status.st_mode & (bit << 3 if status.st_gid in groups else bit))
