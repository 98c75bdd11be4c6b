"""Starting processes as other users: the groups and the home that they have."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from hsmd.daemon.ipc import spawn

OWN_GROUPS = """
import json, os
print(json.dumps(os.getgroups()))
"""


@pytest.mark.parametrize(("all_groups", "expected"), [(True, {1, 54_321}), (False, set())])
def test_workers_keep_the_groups_of_their_user_and_the_front_does_not(
    root: Path, monkeypatch: pytest.MonkeyPatch, all_groups: bool, expected: set[int]
) -> None:
    """`usermod -aG softhsm hsmd-token` lets a module read its files."""
    (root / "own_groups.py").write_text(OWN_GROUPS)
    monkeypatch.setattr(spawn.hsmd, "__file__", str(root / "hsmd" / "__init__.py"))
    monkeypatch.setattr(os, "getgrouplist", lambda user, group: [group, 54_321])
    monkeypatch.setattr(spawn.sys, "executable", "/usr/bin/python3")
    user = "daemon" if os.geteuid() == 0 else ""
    process = spawn.start_python(
        "own_groups",
        [],
        environment={},
        descriptors=[],
        user=user,
        all_groups=all_groups,
        stdout=subprocess.PIPE,
    )
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert set(json.loads(out)) == (expected if user else set(os.getgroups()))


def test_a_process_of_another_user_does_not_look_for_files_in_this_users_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """libpq looks for a certificate in HOME, and fails if it may not."""
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setenv("LANG", "C.UTF-8")
    assert spawn.environment_for("daemon") == {**os.environ, "HOME": pwd.getpwnam("daemon").pw_dir}
    assert spawn.environment_for("") == os.environ
