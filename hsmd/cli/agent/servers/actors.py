"""How each server uses its keys: its user and groups at that time, and its chroot, from its own configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from hsmd.cli.agent.handshake import Actor
from hsmd.cli.agent.servers import haproxy_settings
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.system import host_users
from hsmd.system.host_users import Account
from hsmd.system.input_files import read_file

_NGINX = Path("/etc/nginx/nginx.conf")
_APACHE = Path("/etc/apache2/envvars")
_UNITS = Path("/etc/systemd/system")
_MAX_BYTES = 1 << 20
_NGINX_USER = re.compile(r"^\s*user\s+([^\s;]+)", re.MULTILINE)
_APACHE_USER = re.compile(r"^\s*export\s+APACHE_RUN_USER=['\"]?([^\s'\"$]+)", re.MULTILINE)
_BINDS = re.compile(r"^Bind(?:ReadOnly)?Paths=(.+)$", re.MULTILINE)


def of_user(user: str, openssl: Path) -> Actor:
    """A server that runs as `user`, with all groups of it, and loads its keys as that user; the caller if `user` is empty.

    Raises CommandError for an unknown user.
    """
    if not user:
        return Actor(openssl)
    account = _account(user)
    return Actor(openssl, account, tuple(sorted(host_users.groups_of(account))))


def of_server(server: str, openssl: Path, user: str = "") -> Actor:
    """A server by its name, run as its own configuration says, or as `user`. Raises CommandError for an unknown one."""
    return _SERVERS[server](openssl, user)


def _nginx(openssl: Path, user: str) -> Actor:
    named = _first(_NGINX_USER, _text(_NGINX)) or "www-data"
    return replace(of_user(user or named, openssl), loads_as_root=True)


def _apache(openssl: Path, user: str) -> Actor:
    named = _first(_APACHE_USER, _text(_APACHE)) or "www-data"
    return replace(of_user(user or named, openssl), loads_as_root=True)


def _haproxy(openssl: Path, user: str) -> Actor:
    """HAProxy drops its supplementary groups when it becomes its user, and enters its chroot before."""
    settings = haproxy_settings.read(haproxy_settings.CONFIGURATION)
    account = _account(user or settings.user or "haproxy")
    gid = host_users.gid_of(settings.group) if settings.group else account.gid
    return Actor(
        openssl,
        replace(account, gid=account.gid if gid is None else gid),
        (),
        loads_as_root=True,
        chroot=settings.chroot,
        binds=_binds("haproxy"),
    )


def _postgresql(openssl: Path, user: str) -> Actor:
    return of_user(user or "postgres", openssl)


def _openssl(openssl: Path, user: str) -> Actor:
    return of_user(user, openssl)


_SERVERS: dict[str, Callable[[Path, str], Actor]] = {
    "apache": _apache,
    "haproxy": _haproxy,
    "nginx": _nginx,
    "openssl": _openssl,
    "postgresql": _postgresql,
}


def _account(user: str) -> Account:
    account = host_users.find(user)
    if account is None:
        raise CommandError(
            f"there is no user {user}", "install the server first, or give its user with --user", Exit.USAGE
        )
    return account


def _binds(unit: str) -> tuple[tuple[Path, Path], ...]:
    """What drop-ins of a service show elsewhere (BindPaths= of systemd.exec(5)), in the order of their names."""
    texts = (_text(path) for path in sorted((_UNITS / f"{unit}.service.d").glob("*.conf")))
    return tuple(pair for text in texts for line in _BINDS.findall(text) for pair in _pairs(line.split()))


def _pairs(words: Iterable[str]) -> Iterable[tuple[Path, Path]]:
    for word in words:
        source, _, target = word.removeprefix("-").partition(":")
        yield Path(source), Path(target.partition(":")[0] or source)


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _text(path: Path) -> str:
    try:
        return read_file(path, _MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
