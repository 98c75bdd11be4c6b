"""How each server uses its keys, read from its own configuration: user, groups, chroot, and what its service shows there."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsmd.cli.agent.servers import actors, haproxy_settings
from hsmd.cli.agent.servers.actors import of_server
from hsmd.cli.base.errors import CommandError
from hsmd.system import host_users
from hsmd.system.host_users import Account

OPENSSL = Path("/etc/hsmd/openssl.cnf")
ACCOUNTS = {
    name: Account(name, uid, uid, Path("/"))
    for uid, name in enumerate(("haproxy", "www-data", "web", "postgres"), 2001)
}
SUPPLEMENTARY = 3000


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for the servers' configurations; each user has a group of its own and `SUPPLEMENTARY`."""
    monkeypatch.setattr(haproxy_settings, "CONFIGURATION", tmp_path / "haproxy.cfg")
    monkeypatch.setattr(actors, "_NGINX", tmp_path / "nginx.conf")
    monkeypatch.setattr(actors, "_APACHE", tmp_path / "envvars")
    monkeypatch.setattr(actors, "_UNITS", tmp_path)
    monkeypatch.setattr(host_users, "find", ACCOUNTS.get)
    monkeypatch.setattr(host_users, "gid_of", {"proxies": 2999}.get)
    monkeypatch.setattr(host_users, "groups_of", lambda account: frozenset({account.gid, SUPPLEMENTARY}))
    return tmp_path


def test_haproxy_has_its_user_and_group_alone_and_enters_its_chroot(files: Path) -> None:
    """It calls setgroups(0, NULL) when it becomes its user, so that a group of that user opens nothing for it."""
    (files / "haproxy.cfg").write_text(
        "global\n chroot /var/lib/haproxy # a comment\n user web\n group proxies\ndefaults\n user other\n"
    )
    found = of_server("haproxy", OPENSSL)
    assert (found.chroot, found.loads_as_root, found.openssl) == (Path("/var/lib/haproxy"), True, OPENSSL)
    assert found.account is not None
    assert (found.account.name, found.account.uid, found.account.gid) == ("web", 2003, 2999)
    assert found.groups == ()


def test_haproxy_without_settings_is_the_user_of_its_package() -> None:
    found = of_server("haproxy", OPENSSL)
    assert found.account is not None
    assert (found.account.name, found.account.gid, found.groups, found.chroot) == ("haproxy", 2001, (), None)


def test_what_drop_ins_of_the_service_show_in_the_chroot(files: Path) -> None:
    unit = files / "haproxy.service.d"
    unit.mkdir()
    (unit / "hsmd.conf").write_text("[Service]\nBindReadOnlyPaths=-/run/hsmd:/var/lib/haproxy/run/hsmd\n")
    (unit / "log.conf").write_text("[Service]\nBindPaths=/dev/log:/var/lib/haproxy/dev/log:rbind /srv\n")
    (unit / "ignored.txt").write_text("BindPaths=/a:/b\n")
    assert of_server("haproxy", OPENSSL).binds == (
        (Path("/run/hsmd"), Path("/var/lib/haproxy/run/hsmd")),
        (Path("/dev/log"), Path("/var/lib/haproxy/dev/log")),
        (Path("/srv"), Path("/srv")),
    )


@pytest.mark.parametrize(
    ("server", "file", "text", "user"),
    [
        ("nginx", "nginx.conf", "# user nobody;\nuser web;\nhttp {\n}\n", "web"),
        ("nginx", "nginx.conf", "user  web proxies;\n", "web"),
        ("nginx", "nginx.conf", "http {\n}\n", "www-data"),
        ("apache", "envvars", "export APACHE_RUN_USER=web\n", "web"),
        ("apache", "envvars", 'export APACHE_RUN_USER="web"\n', "web"),
        ("apache", "envvars", "export APACHE_RUN_DIR=/run/apache2$SUFFIX\n", "www-data"),
    ],
)
def test_nginx_and_apache_load_keys_as_root_and_use_them_as_their_user(
    files: Path, server: str, file: str, text: str, user: str
) -> None:
    (files / file).write_text(text)
    found = of_server(server, OPENSSL)
    assert (found.account, found.loads_as_root, found.chroot) == (ACCOUNTS[user], True, None)
    assert found.groups == (ACCOUNTS[user].gid, SUPPLEMENTARY)


def test_postgresql_loads_keys_as_its_user_with_all_its_groups() -> None:
    found = of_server("postgresql", OPENSSL)
    assert (found.account, found.loads_as_root) == (ACCOUNTS["postgres"], False)
    assert found.groups == (ACCOUNTS["postgres"].gid, SUPPLEMENTARY)


def test_a_user_that_is_given_counts_more_than_the_configuration(files: Path) -> None:
    (files / "nginx.conf").write_text("user www-data;\n")
    assert of_server("nginx", OPENSSL, "web").account == ACCOUNTS["web"]
    with pytest.raises(CommandError, match="there is no user nowhere"):
        of_server("nginx", OPENSSL, "nowhere")


def test_any_other_program_is_the_caller_unless_its_user_is_given() -> None:
    found = of_server("openssl", OPENSSL)
    assert (found.account, found.groups, found.loads_as_root) == (None, (), False)
    assert of_server("openssl", OPENSSL, "web").account == ACCOUNTS["web"]
