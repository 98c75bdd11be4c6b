"""Whom the files of a daemon must belong to when it is started as root and gives up its rights."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.base.daemon_toml import Layout
from hsmd.cli.base.errors import CommandError, Exit


@dataclass(frozen=True, slots=True)
class Users:
    """Whom files must belong to: the user of the front process and that of the workers; None for whoever runs us."""

    front: pwd.struct_passwd | None
    workers: pwd.struct_passwd | None

    @classmethod
    def known(cls, front: str, workers: str) -> Users:
        """The users of these names, empty for none. Raises CommandError for unknown ones."""
        return cls(_user("--front-user", front), _user("--worker-user", workers))

    def take(self, path: Path) -> None:
        """A file that the front process reads."""
        if self.front is not None:
            os.chown(path, self.front.pw_uid, self.front.pw_gid, follow_symlinks=False)

    def let_read(self, path: Path) -> None:
        """A file that the front process reads and nobody but root changes."""
        if self.front is not None:
            os.chown(path, 0, self.front.pw_gid, follow_symlinks=False)
            path.chmod(0o640)

    def take_over(self, layout: Layout, softhsm: Path | None) -> None:
        """Everything but the configuration itself: host key and store to the front process, a software token to the workers."""
        for path in (layout.state, layout.host_key, layout.database):
            self.take(path)
        if softhsm is None or self.workers is None:
            return
        layout.state.chmod(0o711)  # workers pass through to their token
        for path in (softhsm, *softhsm.rglob("*")):
            os.chown(path, self.workers.pw_uid, self.workers.pw_gid, follow_symlinks=False)


def _user(option: str, name: str) -> pwd.struct_passwd | None:
    if not name:
        return None
    if os.geteuid() != 0:
        raise CommandError(
            f"{option} needs root, to give files to {name}",
            "run it with sudo, or leave the option out",
            Exit.USAGE,
        )
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise CommandError(
            f"{option}: there is no user {name}", f"make one: useradd --system {name}", Exit.USAGE
        ) from None
