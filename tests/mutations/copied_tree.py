"""A copy of the project in which mitigations are removed: files of its own, and an environment that imports them.

The environment consists of links to the packages of the one that runs this; only the finder of the editable install is
rewritten for the copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.mutations.mitigations import ROOT, Mitigation

TIMEOUT_S = 300.0
_MADE_HERE = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
"""What commands make in the tree, as in .gitignore."""
FAILED = 1
"""Exit status of pytest if tests were run and some failed."""


class CopiedTree:
    """The copy in `directory`; one thing at a time is done with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        if (ROOT / ".git").exists():
            _copy_listed(directory)
        else:  # an archive of the sources, on a machine that may have no git
            shutil.copytree(ROOT, directory, ignore=_MADE_HERE, dirs_exist_ok=True)
        self._python = _link_environment(directory)

    def passes(self, tests: list[str]) -> subprocess.CompletedProcess[str]:
        """Run tests on the copy as it is."""
        return subprocess.run(
            [self._python, "-m", "pytest", "-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider", *tests],
            cwd=self._directory, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, timeout=TIMEOUT_S + 60 * len(tests), check=False,
        )  # fmt: skip

    def notices(self, mitigation: Mitigation) -> tuple[bool, str]:
        """Whether the named test fails without the mitigation, and the last line that pytest printed."""
        path = self._directory / mitigation.file
        before = path.read_text()
        path.write_text(mitigation.removed_from(before))
        try:
            done = self.passes([mitigation.test])
        finally:
            path.write_text(before)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return done.returncode == FAILED, lines[-1] if lines else f"exit status {done.returncode}"


def _copy_listed(directory: Path) -> None:
    """Copy what the repository holds, and new files."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)


def _link_environment(directory: Path) -> Path:
    """An environment of links in `directory`/.venv; returns its interpreter."""
    packages = Path(sysconfig.get_path("purelib"))
    prefix = Path(sys.prefix)
    environment = directory / ".venv"
    copied = environment / packages.relative_to(prefix)
    copied.mkdir(parents=True)
    shutil.copy2(prefix / "pyvenv.cfg", environment)
    for each in packages.iterdir():
        if each.suffix == ".py" and "editable" in each.name:
            _rewrite(each, copied / each.name, str(ROOT), str(directory))
        elif each.name != "__pycache__":
            (copied / each.name).symlink_to(each)
    scripts = environment / "bin"
    scripts.mkdir()
    for each in (prefix / "bin").iterdir():
        if each.is_symlink():
            (scripts / each.name).symlink_to(os.readlink(each))
        else:
            _rewrite(each, scripts / each.name, str(prefix), str(environment))
    return scripts / "python"


def _rewrite(source: Path, target: Path, old: str, new: str) -> None:
    try:
        target.write_text(source.read_text().replace(old, new))
        shutil.copymode(source, target)
    except UnicodeDecodeError:  # a program
        target.symlink_to(source)
