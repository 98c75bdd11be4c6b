"""`hsmd agent install`: write the files that make a TLS server use the agent, or a service that runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric import rsa

from hsmd.cli.agent import check, check_agent, check_files, check_results, reload_agent, server_files
from hsmd.cli.agent.check_results import Finding
from hsmd.cli.agent.options import Config, Socket, app, default_config, default_keys, socket_of
from hsmd.cli.agent.servers import (
    actors,
    apache,
    haproxy,
    installation,
    nginx,
    openssl,
    plan,
    postgresql,
    record,
)
from hsmd.cli.agent.servers.installation import Edit
from hsmd.cli.agent.servers.plan import Plan, Request
from hsmd.cli.agent.servers.record import Record
from hsmd.cli.base import names, unit_files
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output, note
from hsmd.client.keyref import decode
from hsmd.errors import BadRequest, HsmdError
from hsmd.system.input_files import read_file

_RELOAD_S = 5.0
"""How long the agent may take to apply its new configuration."""


class Server(Enum):
    """The servers that `install` supports."""

    NGINX = "nginx"
    HAPROXY = "haproxy"
    APACHE = "apache"
    POSTGRESQL = "postgresql"
    OPENSSL = "openssl"
    SYSTEMD = "systemd"


_PLANS: Mapping[Server, Callable[[Request, str], Plan]] = {
    Server.NGINX: nginx.prepare,
    Server.HAPROXY: haproxy.prepare,
    Server.APACHE: apache.prepare,
    Server.POSTGRESQL: postgresql.prepare,
    Server.OPENSSL: openssl.prepare,
}
_AGENT_USER = "hsmd-agent"
_DECRYPTS = "tls12-rsa-premaster"


@command(
    app,
    "install",
    example="hsmd agent install nginx --key www\nhsmd agent install haproxy --key www --print\n"
    "hsmd agent install postgresql --key db --cluster 15/main\nhsmd agent install nginx --remove\n"
    "hsmd agent install systemd --user hsmd-agent\nhsmd agent install systemd --remove",
)
def install(
    output: Output,
    server: Annotated[
        Server,
        typer.Argument(
            metavar="SERVER",
            help="nginx, haproxy, apache, postgresql; openssl for any other program; systemd for services that run the agent.",
            show_default=False,
        ),
    ],
    key: Annotated[
        list[str],
        typer.Option(
            "--key",
            metavar="KEY",
            help="Name of an exported key; may be repeated. Default: those that were installed before.",
            show_default=False,
            callback=lambda keys: [names.check(each) for each in keys],
        ),
    ] = [],  # noqa: B006  read only
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="DIR", help="Directory that `agent export` wrote to."),
    ] = None,
    user: Annotated[
        str,
        typer.Option(
            "--user",
            metavar="NAME",
            help="User of the server. Default: from its configuration. For systemd: user that the agent runs as (hsmd-agent).",
            show_default=False,
        ),
    ] = "",
    cluster: Annotated[
        str,
        typer.Option(
            "--cluster",
            metavar="VERSION/NAME",
            help="For postgresql: the cluster, if there are several.",
            show_default=False,
        ),
    ] = "",
    site: Annotated[
        Path,
        typer.Option(
            "--site", metavar="FILE", help="OpenSSL configuration of this site, which hsmd's extends."
        ),
    ] = plan.SITE_CONFIGURATION,
    config: Config = None,
    socket: Socket = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the files instead of writing them.")
    ] = False,
    remove: Annotated[
        bool,
        typer.Option("--remove", help="Take back what was installed for the server, with all its keys."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Write below this directory, for building images.")
    ] = Path("/"),
) -> None:
    """Write what a TLS server, as Debian packages it, needs to use the agent; then make a handshake as that server.

    All: an OpenSSL configuration that extends the site's and loads hsmd's provider, OPENSSL_CONF for the service, the user in
    agent.toml, and an entry for renewals. nginx: a snippet for a server block. haproxy: files under the names that it looks
    for, and the agent's socket in its chroot. apache: a file for a virtual host. postgresql: settings of the cluster, and files
    that it accepts. openssl: for any other program. systemd: services that run the agent and install renewed certificates.

    Shows what changes, and asks on a terminal. --remove takes it back, unless a file was changed since.
    """
    if server is Server.SYSTEMD:
        if remove:
            server_files.remove(output, root)
            return
        unit = server_files.systemd_files((config or default_config()).absolute(), user or _AGENT_USER)
        unit_files.install(output, unit, server_files.SYSTEMD_STEPS, root, only_print=only_print)
        return
    root = root.absolute()
    if root == Path("/") and os.geteuid() != 0 and not only_print:
        raise CommandError("only root can change files of a server", "run it as root, or look with --print")
    records = record.load_all(root)
    present = records.get(server.value, Record(server.value))
    if remove:
        if key:
            raise CommandError("--remove is for all keys of a server", "omit --key", Exit.USAGE)
        _remove(output, present, [each for each in records.values() if each != present], root, yes)
        return
    exported = (keys or default_keys(config)).absolute()
    wanted = tuple(dict.fromkeys(key or present.files))
    user = user or present.user
    request = Request(
        wanted,
        exported,
        socket_of(socket, config),
        (config or default_config()).absolute(),
        site.absolute(),
        root,
        cluster,
        tuple(present.files),
        _kinds(socket_of(socket, config), root / exported.relative_to("/"), wanted),
    )
    made = _PLANS[server](request, _user(server, user))
    edits, traces = installation.planned(made.changes, root)
    if only_print:
        output.show(_document(made, edits, root, written=False), lambda: _texts(made, root))
        return
    if (altered := installation.altered(edits, present, root)) and not yes and not sys.stdin.isatty():
        step = "see the difference with --print, then run the command again with --yes, which replaces it"
        raise CommandError(f"{altered} was changed since it was installed", step)
    _confirm(output, edits, yes)
    record.store(root, present.with_changes(made, user, traces))  # first, so that all can be taken back
    installation.carry_out(edits)
    found = [] if root != Path("/") else _try(server, request, made, edits, user)
    _report(output, made, edits, found, root)


def _kinds(socket: Path, exported: Path, keys: Sequence[str]) -> dict[str, str]:
    """What RSA keys can do: what the agent says; while it does not answer, exported ones are taken for signing keys."""
    found = {key: "signs with RSA" for key in keys if _is_rsa(exported / f"{key}.key")}
    with suppress(HsmdError):
        for name, info in check_agent.shown(socket, keys).items():
            if info.key_type.startswith("rsa"):
                found[name] = "decrypts" if info.purposes == [_DECRYPTS] else "signs with RSA"
    return found


def _is_rsa(reference: Path) -> bool:
    try:
        loaded = decode(read_file(reference, check_files.MAX_FILE_BYTES).decode("ascii", "replace")).load()
    except (OSError, BadRequest):
        return False
    return isinstance(loaded, rsa.RSAPublicKey)


def _user(server: Server, user: str) -> str:
    """The user of a server, which may not be installed yet."""
    try:
        account = actors.of_server(server.value, plan.OPENSSL_CONFIGURATION, user).account
    except CommandError:
        if user or server is not Server.POSTGRESQL:
            return user or _USERS[server]
        raise
    return account.name if account else ""


_USERS = {Server.NGINX: "www-data", Server.APACHE: "www-data", Server.HAPROXY: "haproxy"}


def _try(server: Server, request: Request, made: Plan, edits: Sequence[Edit], user: str) -> list[Finding]:
    """Make handshakes as the server, once a running agent has read its new configuration."""
    if any(edit.path == request.config for edit in edits) and reload_agent.reload(request.socket):
        _wait_for_policy(request)
    if not made.files:
        return []
    actor = actors.of_server(server.value, plan.OPENSSL_CONFIGURATION, user)
    files = {key: check.Files(*paths) for key, paths in made.files.items()}
    return check.examine(files, actor, server.value, (), request.socket, request.config)


def _wait_for_policy(request: Request) -> None:
    """Wait until the socket's permissions show that the agent has applied what it was told, or for a while."""
    import time

    before = request.socket.stat().st_ctime_ns
    end = time.monotonic() + _RELOAD_S
    while time.monotonic() < end:
        try:
            if request.socket.stat().st_ctime_ns != before:
                return
        except OSError:
            return
        time.sleep(0.05)


def _remove(output: Output, present: Record, others: Sequence[Record], root: Path, yes: bool) -> None:
    if not present.traces:
        step = "see: hsmd agent install --help; files of an earlier release are removed by hand"
        raise CommandError(f"nothing is recorded as installed for {present.server}", step)
    edits, kept = installation.taken_back(present, others, root)
    _confirm(output, edits, yes)
    installation.carry_out(edits)
    record.store(root, Record(present.server))
    document = {"removed": [str(edit.path) for edit in edits], "kept": sorted(kept)}
    output.show(
        document,
        lambda: "\n".join(
            [
                *(f"{'Removed' if edit.after is None else 'Restored'} {edit.path}" for edit in edits),
                *(f"Kept {path}: another server uses it" for path in sorted(kept)),
            ]
        ),
        hints="\nNext:\n  systemctl daemon-reload, take its keys out of the server's configuration, and restart it",
    )


def _confirm(output: Output, edits: Sequence[Edit], yes: bool) -> None:
    """Show what will change; on a terminal, ask. Raises CommandError for a no."""
    if output.as_json:
        return
    note("\n".join(line for edit in edits for line in edit.diff))
    if edits and not yes and sys.stdin.isatty() and not typer.confirm("Change these files?", err=True):
        raise CommandError("nothing was changed", "")


def _report(output: Output, made: Plan, edits: Sequence[Edit], found: Sequence[Finding], root: Path) -> None:
    lines = [f"Wrote {edit.path}" for edit in edits] or ["Everything was installed already"]
    shown = [finding for finding in found if not finding.ok or finding.subject == "handshake"]
    output.show(
        _document(made, edits, root, written=True) | {"findings": check_results.documents(found)},
        lambda: "\n".join([*lines, *map(check_results.line, shown)]),
        hints="\n".join(["", "Next:", *(f"  {step}" for step in made.steps)]),
    )
    check_results.conclude(found)


def _document(made: Plan, edits: Sequence[Edit], root: Path, *, written: bool) -> dict[str, object]:
    texts = installation.texts(made.changes, root)
    return {
        "files": [{"path": str(path), "content": text} for path, text in texts.items()],
        "written": written,
        "changed": [str(edit.path) for edit in edits],
        "steps": list(made.steps),
    }


def _texts(made: Plan, root: Path) -> str:
    texts = installation.texts(made.changes, root)
    return "\n".join(
        line for path, text in texts.items() for line in (f"# ---- {path}", *text.splitlines(), "")
    )
