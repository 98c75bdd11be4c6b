"""`hsmd init`: its options, and the order in which it creates everything that a daemon needs to start."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.base import profile as profiles, sqlite_store, ssh_keys, systemd
from hsmd.cli.base.commands import command
from hsmd.cli.base.daemon_toml import Layout, render
from hsmd.cli.base.daemon_users import Users
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import (
    PRIVATE,
    PUBLIC,
    SHARED_DIRECTORY,
    exists,
    make_directory_for_now,
    write_new,
)
from hsmd.cli.base.invoking_user import invoking_user
from hsmd.cli.base.output import Output, note
from hsmd.cli.base.sqlite_store import FirstClient
from hsmd.cli.init import report
from hsmd.cli.init.first_operator import default_name, identity_file, make_operator
from hsmd.cli.init.other_daemon import load_shared
from hsmd.cli.init.token import make_software_token, token_from_options
from hsmd.cli.init.token_test import log_in_once
from hsmd.cli.init.users import user_names
from hsmd.errors import ConfigurationError
from hsmd.protocol.roles import Role

app = typer.Typer(add_completion=False)

DEFAULT_LISTEN = "127.0.0.1:7440"


@command(
    app,
    "init",
    example="hsmd init --softhsm\n"
    "sudo hsmd init --config /etc/hsmd/hsmd.toml --state /var/lib/hsmd --listen 10.9.0.1:7440 "
    "--module /usr/lib/vendor/libpkcs11.so --token-label tls --pin-file /etc/hsmd/pin",
)
def init(
    output: Output,
    config: Annotated[
        Path, typer.Option("--config", "-c", metavar="FILE", help="Configuration file to write.")
    ] = Path("hsmd.toml"),
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="DIR",
            help="Directory for database and audit log. Default: that of the configuration.",
        ),
    ] = None,
    listen: Annotated[
        list[str],
        typer.Option("--listen", metavar="ADDRESS:PORT", help="Address to listen on; may be repeated."),
    ] = [DEFAULT_LISTEN],  # noqa: B006  read only
    module: Annotated[
        Path | None, typer.Option("--module", metavar="FILE", help="PKCS#11 module of the token.")
    ] = None,
    token_label: Annotated[
        str, typer.Option("--token-label", metavar="LABEL", help="Label of the token.", show_default=False)
    ] = "",
    token_serial: Annotated[
        str,
        typer.Option(
            "--token-serial",
            metavar="SERIAL",
            help="Serial number of the token, in place of its label, if several have one label.",
            show_default=False,
        ),
    ] = "",
    pin_file: Annotated[
        Path | None, typer.Option("--pin-file", metavar="FILE", help="File with the user PIN.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like",
            metavar="FILE",
            help="hsmd.toml of another daemon that serves the same keys: its store and its token, unless options name others.",
        ),
    ] = None,
    environment: Annotated[
        list[str],
        typer.Option(
            "--environment",
            metavar="NAME=VALUE",
            help="Environment variable that the module needs; set in its workers only. May be repeated.",
        ),
    ] = [],  # noqa: B006  read only
    softhsm: Annotated[
        bool, typer.Option("--softhsm", help="Create a software token (SoftHSM), for tests.")
    ] = False,
    front_user: Annotated[
        str,
        typer.Option(
            "--front-user",
            metavar="USER",
            help="When started as root, run the front process, which serves the network, as this user. Default for root: hsmd.",
            show_default=False,
        ),
    ] = "",
    worker_user: Annotated[
        str,
        typer.Option(
            "--worker-user",
            metavar="USER",
            help="When started as root, run the workers, which have the PIN, as this user. Default for root: hsmd-token.",
            show_default=False,
        ),
    ] = "",
    create_users: Annotated[
        bool, typer.Option("--create-users", help="Create these users if they do not exist.")
    ] = False,
    run_as_root: Annotated[
        bool,
        typer.Option(
            "--run-as-root", help="Run all processes as root, without separate users: only for tests."
        ),
    ] = False,
    token_test: Annotated[
        bool,
        typer.Option(
            "--token-test/--no-token-test",
            help="Log in to the token once before anything is written; a wrong PIN is not tried again.",
        ),
    ] = True,
    unit: Annotated[
        Path | None,
        typer.Option(
            "--systemd",
            metavar="DIR",
            help="Also write hsmd.service to this directory, usually /etc/systemd/system; the PIN file becomes a credential.",
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Name of the daemon and its audit log; must be unique in the fleet. Default: name of this host.",
            show_default=False,
        ),
    ] = "",
    operator: Annotated[
        str,
        typer.Option(
            "--operator",
            metavar="NAME",
            help="Client name of the first operator. Default: your user name.",
            show_default=False,
        ),
    ] = "",
    operator_key: Annotated[
        str,
        typer.Option(
            "--operator-key",
            metavar="LINE|FILE",
            help="OpenSSH public key of the operator. Default: a new key in your profile directory.",
            show_default=False,
        ),
    ] = "",
    profile: Annotated[
        Path | None,
        typer.Option(
            "--profile",
            metavar="FILE",
            help="Operator profile to write. Default: operator.toml in ~/.config/hsmd.",
        ),
    ] = None,
) -> None:
    """Create what a daemon needs: commented configuration, host key, store, and the first operator.

    Existing files are not overwritten; if a step fails, what was created before it is removed. Started by root, the daemon runs
    its processes as the users hsmd and hsmd-token. With --softhsm it also creates a software token, to try hsmd without hardware.
    """
    layout = Layout(config.absolute(), (state or config.parent).absolute())
    if like is not None and softhsm:
        raise CommandError("--softhsm makes a token of its own", "omit it, or --like", Exit.USAGE)
    beside = None if like is None else load_shared(like)
    if not softhsm:
        token = token_from_options(module, token_label, token_serial, pin_file, environment, beside)
    names = user_names(front_user, worker_user, create=create_users, as_root=run_as_root, softhsm=softhsm)
    user = invoking_user()
    operator = operator or default_name(user)
    where = (profile or user.configuration / profiles.PROFILE_NAME).absolute()
    service = None if unit is None else (unit / systemd.DAEMON_UNIT).absolute()
    _refuse_existing(layout, None if operator_key or beside else where, service)
    with ExitStack() as undo:
        if create_users:
            names.create_missing(undo)
        users = Users.from_options(names.front, names.workers)
        if token_test and not softhsm:
            log_in_once(output, token, names.workers)
        make_directory_for_now(undo, layout.config.parent, SHARED_DIRECTORY)
        make_directory_for_now(undo, layout.state)
        if softhsm:
            token = make_software_token(layout, undo)
        if service is not None and not softhsm:
            token = replace(token, credential=token.pin_file.name)
        text = render(
            name or _host_name(),
            layout,
            listen,
            token,
            names.front,
            names.workers,
            beside.store_url if beside else "",
        )
        address = _first_address(text, layout)
        host = ssh_keys.make_for_now(undo, layout.host_key, "hsmd host key")
        first = None
        if beside is None:
            first = make_operator(undo, user, operator, operator_key, where, host, address)
            sqlite_store.remove_with(undo, layout.database)
            sqlite_store.create(layout.database, [FirstClient(first.name, Role.OPERATOR, first.key)])
        users.give_all(layout, layout.state / "softhsm" if softhsm else None)
        if service is not None:
            pin_as_credential = token.pin_file if token.credential else None
            write_new(service, systemd.daemon_unit(layout.config, layout.state, pin_as_credential), PUBLIC)
            undo.callback(service.unlink, missing_ok=True)
        write_new(layout.config, text, PRIVATE)  # last: if it exists, the set-up is complete
        users.let_front_read(layout.config)
        undo.pop_all()
    report.show(output, layout, host, first, address, report.start_step(layout, service, names))
    if os.geteuid() == 0 and not names.front:
        note("Warning: front process and workers will run as root, which is only for tests.")


def _host_name() -> str:
    """The name of this host if it is a valid daemon name, otherwise "hsmd"."""
    from hsmd.daemon.config.reader import NAME

    name = socket.gethostname()
    return name if NAME.fullmatch(name) else "hsmd"


def _refuse_existing(layout: Layout, profile: Path | None, service: Path | None) -> None:
    made = [layout.config, layout.host_key, layout.database, layout.audit]
    if service is not None:
        made.append(service)
    if profile is not None:
        made += [profile, identity_file(profile)]
    for path in made:
        if path.exists() or path.is_symlink():
            raise exists(path)


def _first_address(text: str, layout: Layout) -> str:
    """The address for operators. Raises CommandError for invalid options, before anything is written."""
    from hsmd.daemon.config.reader import parse

    try:
        address = parse(text, layout.config).listen.addresses[0]
    except ConfigurationError as error:
        raise CommandError(
            "; ".join(error.faults), "correct the options; nothing was written", Exit.USAGE
        ) from None
    if address.port == 0:
        raise CommandError(
            f"--listen {address}: front ends cannot reach a port that changes with every start",
            "give a port from 1 to 65535; nothing was written",
            Exit.USAGE,
        )
    return str(address)
