"""Interpreters for daemons under test in which a piece of code runs first, to change one function of a process or to kill it there."""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path


def python_with(directory: Path, hook: str) -> str:
    """An interpreter with the packages of this one, which runs `hook` when it starts."""
    venv.create(directory, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(directory)}))
    (packages / "start_hook.py").write_text(hook)
    mine = sysconfig.get_path("purelib")
    (packages / "hook.pth").write_text(f"import site; site.addsitedir({mine!r})\nimport start_hook\n")
    return str(directory / "bin" / "python")
