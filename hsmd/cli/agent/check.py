"""`hsmd agent check`: check everything between TLS servers and their keys, up to complete handshakes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.agent import (
    check_access,
    check_agent,
    check_files,
    check_handshake,
    check_openssl,
    check_results,
    check_server,
)
from hsmd.cli.agent.check_access import Wanted
from hsmd.cli.agent.check_agent import Seen
from hsmd.cli.agent.check_results import Finding, good
from hsmd.cli.agent.handshake import KINDS, Actor, Attempt
from hsmd.cli.agent.options import Config, Socket, app, default_config, default_keys, socket_of
from hsmd.cli.agent.servers import actors, record
from hsmd.cli.agent.servers.plan import OPENSSL_CONFIGURATION
from hsmd.cli.base import names
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import DEFAULT_TIMEOUT_S
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output
from hsmd.errors import HsmdError
from hsmd.protocol.messages import KeyInfo
from hsmd.system import host_users


class Server(Enum):
    """The servers whose way to use keys is known."""

    NGINX = "nginx"
    HAPROXY = "haproxy"
    APACHE = "apache"
    POSTGRESQL = "postgresql"


_SERVERS = {"haproxy": "haproxy", "postgres": "postgresql", "www-data": "nginx"}
"""The servers that Debian runs as these users. Apache loads its keys as nginx does."""


class Purpose(Enum):
    """The purposes that a handshake can be made for."""

    TLS13_SERVER = "tls13-server"
    TLS12_SERVER = "tls12-server"
    TLS12_RSA_PREMASTER = "tls12-rsa-premaster"
    TLS13_CLIENT = "tls13-client"
    TLS12_CLIENT = "tls12-client"


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a key that a server loads."""

    reference: Path
    chain: Path


@command(
    app,
    "check",
    example="hsmd agent check\nhsmd agent check www --server haproxy\n"
    "hsmd agent check www --user www-data --file /etc/hsmd/keys/www.key",
)
def check(
    output: Output,
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY",
            help="Name of the key. Default: every exported key.",
            show_default=False,
            callback=lambda name: names.check(name) if name else name,
        ),
    ] = "",
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="Key reference. Default: the path that `agent export` uses."
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate",
            metavar="FILE",
            help="Certificate chain. Default: the .pem file beside the key reference.",
        ),
    ] = None,
    openssl: Annotated[
        Path, typer.Option("--openssl", metavar="FILE", help="OpenSSL configuration of the server.")
    ] = OPENSSL_CONFIGURATION,
    server: Annotated[
        Server | None,
        typer.Option(
            "--server", metavar="SERVER", help="Do as this server does: its user, groups and chroot."
        ),
    ] = None,
    user: Annotated[
        str,
        typer.Option(
            "--user",
            metavar="NAME",
            help="User that the TLS server runs as; its permissions are checked.",
            show_default=False,
        ),
    ] = "",
    purpose: Annotated[
        list[Purpose],
        typer.Option(
            "--purpose",
            metavar="PURPOSE",
            help="Purpose that the server uses; may be repeated. Default: all of the key.",
        ),
    ] = [],  # noqa: B006  read only
    config: Config = None,
    socket: Socket = None,
) -> None:
    """Check everything between TLS servers and their keys, and report how to fix each problem.

    Checks the socket, agent, daemons, grants, key references, certificates and their expiry, and OpenSSL with its providers.
    Then it makes a TLS handshake with itself for each purpose of each key: as root in the way of the servers that were
    installed, or of --server or --user, as that user and in its chroot. Exit code 4 means that there is a problem, 5 that
    handshakes work nevertheless, as while one of several daemons is away.
    """
    if not key and (file or certificate):
        raise CommandError("--file and --certificate are for one key", "name the key", Exit.USAGE)
    if user and host_users.find(user) is None:
        step = "give the user that the TLS server runs as"
        check_results.report(output, [check_results.bad("permissions", f"there is no user {user}", step)])
    given = [each.value for each in purpose]
    listen, configuration = socket_of(socket, config), config or default_config()
    kind = server.value if server else _SERVERS.get(user, "")
    installed = {} if file or certificate or os.geteuid() != 0 else record.load_all(Path("/"))
    if kind or user:
        installed = {name: each for name, each in installed.items() if name == kind}
    found: list[Finding] = []
    files = _files(key, file, certificate, default_keys(config))
    for each in installed.values():
        of_server = {name: Files(*paths) for name, paths in each.files.items() if name == key or not key}
        if of_server:
            actor = actors.of_server(each.server, openssl, user or each.user)
            found += check_server.check(each.unit, actor)
            found += examine(of_server, actor, each.server, given, listen, configuration)
            files = {name: paths for name, paths in files.items() if name not in of_server}
    if files:
        actor = actors.of_server(kind, openssl, user) if kind else actors.of_user(user, openssl)
        found += examine(files, actor, kind, given, listen, configuration)
    found = list(dict.fromkeys(found))
    check_results.report(output, found if key else _shortened(found))


def _files(key: str, file: Path | None, certificate: Path | None, directory: Path) -> dict[str, Files]:
    """The files that were named for a key or are the default; without a key, those of all exported ones."""
    if not key:
        return _exported(directory)
    reference = file or directory / f"{key}.key"
    return {key: Files(reference, certificate or reference.with_suffix(".pem"))}


def _exported(directory: Path) -> dict[str, Files]:
    """The files of all exported keys by name. Raises CommandError if there is none."""
    found = {path.stem: Files(path, path.with_suffix(".pem")) for path in sorted(directory.glob("*.key"))}
    if not found:
        raise CommandError(f"{directory} holds no exported key", "export one: hsmd agent export KEY")
    return found


def examine(
    files: Mapping[str, Files],
    actor: Actor,
    server: str,
    purposes: Sequence[str],
    socket: Path,
    config: Path,
) -> list[Finding]:
    """All findings about these keys."""
    found, seen = check_agent.check_agent(socket, actor, list(files))
    found += check_agent.check_policy(config, actor.account, list(files))
    current = _current(socket, seen)
    tried: list[Attempt] = []
    for name, each in files.items():
        info = seen.keys.get(name)
        of_key, fit = _check_files(name, each, info, current.get(name, ""))
        if actor.account is not None and not actor.loads_as_root:
            group = host_users.group_name(actor.account.gid)
            again = f"run: hsmd agent export {name} --group {group}"
            of_key += [
                check_access.check(actor, Wanted(path, "read", "-r", fix))
                for path, fix in ((each.reference, again), (each.chain, ""))
                if path.exists()
            ]
        found += of_key
        if info is not None and fit:
            wanted = [purpose for purpose in purposes or info.purposes if purpose in KINDS]
            tried += check_handshake.attempts(name, wanted, each.chain, each.reference)
    found += check_suites(seen.keys)
    found += _check_openssl(actor, next(iter(files.values())).reference)
    if tried and seen.connected and all(finding.ok for finding in found if finding.subject in _FIRST):
        found += check_handshake.check(actor, server, seen.client, tried)
    return found


_FIRST = frozenset({"socket", "permissions", "agent", "local policy", "OpenSSL"})
"""Subjects whose problems say already why a handshake would fail."""


def _check_files(name: str, files: Files, info: KeyInfo | None, current: str) -> tuple[list[Finding], bool]:
    """The findings, and whether reference and certificate can be read and are for this key."""
    reference = check_files.check_reference(files.reference, name, info)
    now = datetime.now(UTC)
    certificate = check_files.check_certificate(files.chain, name, info, now)
    fit = reference[0].ok and len(certificate) > 1 and certificate[0].ok
    newer = check_files.check_current(files.chain, name, current, now) if fit and current else []
    return [*reference, *certificate, *newer], fit


def check_suites(keys: Mapping[str, KeyInfo]) -> list[Finding]:
    """What the server must not offer with these keys; what it does offer is not looked at."""
    found = []
    for name, info in keys.items():
        if "tls12-rsa-premaster" in info.purposes:
            text = f"{name} only decrypts: offer RSA key exchange (kRSA) with it in TLS 1.2, and nothing else"
            found.append(good("cipher suites", text))
        elif info.key_type.startswith("rsa") and "tls12-server" in info.purposes:
            text = f"{name} only signs: exclude RSA key exchange and DHE, as in HIGH:!aNULL:!MD5:!kRSA:!DHE"
            found.append(good("cipher suites", text))
    return found


def _check_openssl(actor: Actor, reference: Path) -> list[Finding]:
    found: list[Finding] = []
    if actor.account is not None and not actor.loads_as_root:
        found += [
            check_access.check(actor, Wanted(file, "read", "-r"))
            for file in (actor.openssl, *check_openssl.provider_modules(actor.openssl))
            if file.exists()
        ]
    return found + check_openssl.check_openssl(actor.openssl, reference)


def _current(socket: Path, seen: Seen) -> dict[str, str]:
    """The chains that the agent has for these keys; none if it does not say."""
    from hsmd.cli.base.key_files import chains_of
    from hsmd.client import AgentEndpoint, Client

    if not seen.keys:
        return {}
    try:
        with Client.connect(AgentEndpoint(socket)) as agent:
            return chains_of(agent, list(seen.keys.values()), timeout_s=DEFAULT_TIMEOUT_S)
    except HsmdError:
        return {}


def _shortened(found: Sequence[Finding]) -> list[Finding]:
    """Of many keys, what is in order is shown by their handshakes alone."""
    per_key = {"grant", "local policy", "key reference", "certificate", "permissions", "cipher suites"}
    return [finding for finding in found if not finding.ok or finding.subject not in per_key]
