"""A user whose directory root changes, as PostgreSQL's is by `hsmd agent install`: what that user can make root do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hsmd.cli.agent.servers import changes, installation
from hsmd.cli.base.errors import CommandError
from hsmd.system import atomic_file, places

OWNER = 4_242 if os.geteuid() == 0 else os.geteuid()
"""The server's user; without root, this one."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system in which PostgreSQL's directory belongs to its user, as on Debian."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.geteuid() and directory not in (Path("/tmp"), Path("/")):
            directory.chmod(directory.stat().st_mode | 0o011)
    cluster = tmp_path / "etc/postgresql/15/main"
    cluster.mkdir(parents=True)
    (cluster / "environment").write_text("# variables\n")
    (cluster / "environment").chmod(0o644)
    for path in (cluster.parent, cluster, cluster / "environment"):
        os.chown(path, OWNER, OWNER if OWNER == 4_242 else -1)
    return tmp_path


def cluster(root: Path) -> Path:
    return root / "etc/postgresql/15/main"


def planned(root: Path) -> list[installation.Edit]:
    wanted = [
        changes.block(Path("/etc/postgresql/15/main/environment"), "postgresql", "A = 'b'"),
        changes.whole(Path("/etc/postgresql/15/main/conf.d/hsmd.conf"), "ssl = on\n"),
    ]
    edits, _ = installation.planned(wanted, root)
    return edits


def test_a_directory_of_the_servers_user_is_changed(root: Path) -> None:
    """The positive control: the file keeps its owner, and new ones are the user's."""
    installation.carry_out(planned(root))
    assert "A = 'b'" in (cluster(root) / "environment").read_text()
    for name in ("environment", "conf.d/hsmd.conf"):
        assert (cluster(root) / name).stat().st_uid == OWNER
    assert os.geteuid() in (0, OWNER)


def test_a_link_is_not_read(root: Path) -> None:
    """The text would be shown, and written to a file that the user may read."""
    secret = root / "secret"
    secret.write_text("# root's\n")
    (cluster(root) / "environment").unlink()
    (cluster(root) / "environment").symlink_to(secret)
    with pytest.raises(CommandError, match="it is a link"):
        planned(root)


def test_what_its_owner_may_not_read_is_not_read_through_a_directory(root: Path) -> None:
    secrets = root / "secrets"
    secrets.mkdir()
    (secrets / "environment").write_text("# root's\n")
    (secrets / "environment").chmod(0)
    cluster(root).rename(cluster(root).with_name("moved"))
    cluster(root).symlink_to(secrets)
    with pytest.raises(CommandError, match="Permission denied"):
        planned(root)


def test_nothing_is_written_where_the_directory_leads_meanwhile(root: Path) -> None:
    """Such as /etc/ld.so.conf.d: names and contents of the files there would be the user's choice."""
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o555)
    _, new = planned(root)
    cluster(root).rename(cluster(root).with_name("moved"))
    cluster(root).symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"Permission denied|No such file"):
        installation.carry_out([new])
    assert list(elsewhere.iterdir()) == []
    assert os.geteuid() in (0, OWNER)


def test_a_file_that_is_replaced_by_a_link_gives_the_user_no_other_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """chown(2) of a path gives away whatever the path leads to by then."""
    secret = root / "secret"
    secret.write_text("root's")
    replace: Callable[..., None] = atomic_file.replace

    def replace_and_swap(path: Path, *arguments: object, **options: object) -> None:
        replace(path, *arguments, **options)
        path.unlink()
        path.symlink_to(secret)

    edits = planned(root)
    monkeypatch.setattr(atomic_file, "replace", replace_and_swap)
    installation.carry_out(edits)
    assert secret.stat().st_uid == os.geteuid()


def test_the_first_directory_that_another_user_owns_counts(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind links, and when it leads back to a directory of root."""
    (root / "link").symlink_to("etc/postgresql/15")
    (cluster(root) / "back").symlink_to("/etc")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for path in ("link/main/environment", "link/../15/main/x", "etc/postgresql/15/main/back/passwd"):
        assert places.other_owner(root / path) == OWNER
    assert places.other_owner(Path("/etc/passwd")) is None


def test_an_image_in_a_users_directory_is_changed_as_root(root: Path) -> None:
    """--root names it, so the way to it is trusted; files in it belong to root."""
    (root / "etc").rename(root / "image")
    image = root / "image"
    os.chown(root, OWNER, -1)
    edits, _ = installation.planned([changes.whole(Path("/systemd/x.conf"), "a\n")], image)
    installation.carry_out(edits)
    assert (image / "systemd/x.conf").stat().st_uid == os.geteuid()
