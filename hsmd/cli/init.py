"""`hsmd init`: create everything that a daemon needs to start."""

from __future__ import annotations

import os
import re
import shutil
import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import profile as profiles, ssh_keys, systemd
from hsmd.cli.base.commands import command
from hsmd.cli.base.daemon_toml import Layout, TokenChoice, render
from hsmd.cli.base.daemon_users import FRONT_USER, UserNames, Users, names_of_separate_users
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import (
    PRIVATE,
    PUBLIC,
    SHARED_DIRECTORY,
    exists,
    make_directory_for_now,
    write_new,
)
from hsmd.cli.base.invoking_user import InvokingUser, invoking_user
from hsmd.cli.base.output import Output, fields, note
from hsmd.cli.base.ssh_keys import PublicLine
from hsmd.cli.base.system_users import requires_root
from hsmd.errors import ConfigurationError

if TYPE_CHECKING:
    from hsmd.daemon.config.settings import Config

app = typer.Typer(add_completion=False)

DEFAULT_LISTEN = "127.0.0.1:7440"
SOFTHSM_LABEL = "hsmd"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(frozen=True, slots=True)
class Operator:
    """The first operator: client name, public key, and the profile if the key was generated here."""

    name: str
    key: PublicLine
    profile: Path | None


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
    beside = None if like is None else _daemon_like(like, softhsm)
    if not softhsm:
        token = _hardware(module, token_label, token_serial, pin_file, environment, beside)
    names = _user_names(front_user, worker_user, create_users, run_as_root, softhsm)
    user = invoking_user()
    operator = operator or _own_name(user)
    where = (profile or user.configuration / profiles.PROFILE_NAME).absolute()
    service = None if unit is None else (unit / systemd.DAEMON_UNIT).absolute()
    _refuse_existing(layout, None if operator_key or beside else where, service)
    with ExitStack() as undo:
        if create_users:
            names.create_missing(undo)
        users = Users.from_options(names.front, names.workers)
        if token_test and not softhsm:
            _test_token(output, token, names.workers)
        make_directory_for_now(undo, layout.config.parent, SHARED_DIRECTORY)
        make_directory_for_now(undo, layout.state)
        if softhsm:
            token = _softhsm(layout, undo)
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
            first = _operator(undo, user, operator, operator_key, where, host, address)
            _store(undo, layout, first)
        users.give_all(layout, layout.state / "softhsm" if softhsm else None)
        if service is not None:
            pin_as_credential = token.pin_file if token.credential else None
            write_new(service, systemd.daemon_unit(layout.config, layout.state, pin_as_credential), PUBLIC)
            undo.callback(service.unlink, missing_ok=True)
        write_new(layout.config, text, PRIVATE)  # last: if it exists, the set-up is complete
        users.let_front_read(layout.config)
        undo.pop_all()
    _report(output, layout, host, first, address, _start_step(layout, service, names))
    if os.geteuid() == 0 and not names.front:
        note("Warning: front process and workers will run as root, which is only for tests.")


def _user_names(front: str, workers: str, create: bool, as_root: bool, softhsm: bool) -> UserNames:
    """The users of front process and workers. Raises CommandError unless root separates them, or wants it otherwise."""
    if as_root and (front or workers or create):
        raise CommandError(
            "--run-as-root excludes the options that name or create users", "omit one", Exit.USAGE
        )
    named = front or workers or create
    if as_root or (os.geteuid() != 0 and not create) or (softhsm and not named):
        return UserNames(front, workers)
    if os.geteuid() != 0:
        raise requires_root("--create-users", front or FRONT_USER)
    return names_of_separate_users(front, workers, create=create)


def _own_name(user: InvokingUser) -> str:
    from hsmd.daemon.store.names import is_name

    return user.name if is_name(user.name) else "operator"


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
        made += [profile, _identity(profile)]
    for path in made:
        if path.exists() or path.is_symlink():
            raise exists(path)


def _identity(profile: Path) -> Path:
    return profile.with_name(f"{profile.stem}_ed25519")


def _softhsm(layout: Layout, undo: ExitStack) -> TokenChoice:
    from hsmd.pkcs11.softhsm import make_token

    directory = layout.state / "softhsm"
    if directory.exists():
        raise exists(directory)
    undo.callback(shutil.rmtree, directory, ignore_errors=True)
    made = make_token(directory, SOFTHSM_LABEL)
    return TokenChoice(made.module, made.label, made.pin_file, made.environment, name="softhsm")


def _daemon_like(file: Path, softhsm: bool) -> Config:
    """The configuration of another daemon of the fleet. Raises CommandError if its store or token cannot be shared."""
    from hsmd.daemon.config.reader import load
    from hsmd.daemon.store import Store

    config = load(file.absolute())
    if softhsm:
        raise CommandError("--softhsm makes a token of its own", "omit it, or --like", Exit.USAGE)
    if config.store_url.startswith("sqlite:"):
        raise CommandError(
            f"the store in {file} is SQLite, which only the daemon of that host can use",
            "move it to PostgreSQL first (docs/day2.md, several daemons)",
            Exit.USAGE,
        )
    if len(config.tokens) != 1:
        raise CommandError(
            f"{file} has {len(config.tokens)} tokens, and --like is for one",
            "copy and edit the file",
            Exit.USAGE,
        )
    store = Store(config.store_url)
    try:
        store.needs_upgrade()
    finally:
        store.close()
    return config


def _hardware(
    module: Path | None,
    label: str,
    serial: str,
    pin_file: Path | None,
    environment: list[str],
    like: Config | None = None,
) -> TokenChoice:
    if label and serial:
        raise CommandError(
            "--token-label and --token-serial both choose a token", "give one of them", Exit.USAGE
        )
    variables = _environment(environment)
    name = "token"
    if like is not None:
        known = like.tokens[0]
        name = known.name  # a refused PIN is known to all daemons by this name
        module = module or Path(known.settings.module)
        if not (label or serial):
            label, serial = known.settings.label, known.settings.serial
        variables = variables or dict(known.environment)
    given = {"--module": module, "--token-label": label or serial, "--pin-file": pin_file}
    missing = [option for option, value in given.items() if not value]
    if module is None or pin_file is None or missing:
        raise CommandError(
            f"no token is configured: {', '.join(missing)} not given",
            "give the options, or use a software token for tests: hsmd init --softhsm",
            Exit.USAGE,
        )
    for option, path in (("--module", module), ("--pin-file", pin_file)):
        if not path.is_file():
            raise CommandError(f"{option}: there is no file {path}", "correct the path", Exit.USAGE)
    if pin_file.stat().st_mode & 0o077:
        raise CommandError(
            f"other users can read the PIN in {pin_file}", f"run: chmod 600 {pin_file}", Exit.USAGE
        )
    if os.access(pin_file, os.R_OK):
        _check_pin(pin_file)
    return TokenChoice(module.absolute(), label, pin_file.absolute(), variables, name=name, serial=serial)


def _environment(given: list[str]) -> dict[str, str]:
    found = dict(each.split("=", 1) for each in given if _VARIABLE.match(each))
    if len(found) != len(given):
        raise CommandError(
            "--environment: give NAME=VALUE, each name once",
            "for example SOFTHSM2_CONF=/etc/softhsm2.conf",
            Exit.USAGE,
        )
    return found


def _test_token(output: Output, token: TokenChoice, user: str) -> None:
    """Log in once, as the workers will: with their lock file, so that they do not try a PIN that is refused here."""
    from hsmd.daemon.ipc.start_checks import check_token
    from hsmd.daemon.ipc.worker_settings import WorkerSettings
    from hsmd.pkcs11.settings import TokenSettings

    settings = TokenSettings(
        name=token.name,
        module=str(token.module),
        label=token.label,
        serial=token.serial,
        pin_file=str(token.pin_file),
        cleared=True,  # a person is here, and has corrected the PIN if it was refused before
    )
    with output.working("logging in to the token"):
        results = check_token(WorkerSettings(token=settings, user=user), token.environment, login=True)
    for result in results:
        if not result.ok:
            raise CommandError(f"{result.subject}: {result.text}", f"{result.fix}; nothing was written")


def _check_pin(pin_file: Path) -> None:
    """Raises CommandError if workers would refuse the file: an operator learns that before anything is written."""
    from hsmd.pkcs11.pin import read_pin

    try:
        read_pin(pin_file)
    except ConfigurationError as error:
        what, _, next_step = error.faults[0].partition("; ")
        raise CommandError(
            f"--pin-file: {pin_file}: {what}", next_step or "correct the file", Exit.USAGE
        ) from None


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


def _operator(
    undo: ExitStack,
    user: InvokingUser,
    name: str,
    given_key: str,
    profile: Path,
    host: PublicLine,
    address: str,
) -> Operator:
    if given_key:
        return Operator(name, ssh_keys.line_or_file(given_key), None)
    identity = _identity(profile)
    with user.acting():
        make_directory_for_now(undo, profile.parent)
        key = ssh_keys.make_for_now(undo, identity, f"{name}, operator of hsmd")
        text = profiles.render(profiles.Profile(address, name, Path(identity.name), (host.line,)))
        write_new(profile, text, PRIVATE)
        undo.callback(profile.unlink, missing_ok=True)
    return Operator(name, key, profile)


def _store(undo: ExitStack, layout: Layout, operator: Operator) -> None:
    from hsmd.daemon.store import CredentialRecord, Store
    from hsmd.protocol.roles import Role

    for suffix in ("", "-wal", "-shm"):
        undo.callback(layout.database.with_name(layout.database.name + suffix).unlink, missing_ok=True)
    store = Store(f"sqlite:///{layout.database}")
    try:
        store.migrate()
        credential = CredentialRecord(operator.key.fingerprint, operator.key.line)
        with store.write() as tx:
            tx.clients.add(operator.name, frozenset({Role.OPERATOR}), datetime.now(UTC), credential)
    finally:
        store.close()


def _report(
    output: Output, layout: Layout, host: PublicLine, operator: Operator | None, address: str, start: str
) -> None:
    document = {
        "config": str(layout.config),
        "daemon": address,
        "host_key": host.line,
        "host_key_fingerprint": host.fingerprint,
        "operator": operator.name if operator else None,
        "operator_key_fingerprint": operator.key.fingerprint if operator else None,
        "profile": str(operator.profile) if operator and operator.profile else None,
    }
    made = fields(
        [
            ("configuration", str(layout.config)),
            ("host key", host.fingerprint),
            (
                "operator",
                f"{operator.name}, {operator.key.fingerprint}" if operator else "those of the store",
            ),
            ("profile", str(operator.profile) if operator and operator.profile else ""),
        ]
    )
    steps = (
        _next_steps(host, operator, address, start) if operator else _steps_of_another(host, address, start)
    )
    output.show(document, lambda: made, hints=steps)


def _steps_of_another(host: PublicLine, address: str, start: str) -> str:
    return f"""
Next:
  1. Start the daemon:   {start}
  2. On each front end:  hsmd agent daemon add {address} --host-key '{host.line}' && systemctl reload hsmd-agent
  3. As an operator:     hsmd status --daemon {address} --host-key '{host.line}'
"""


def _start_step(layout: Layout, service: Path | None, names: UserNames) -> str:
    """The command that starts the daemon, as it was set up."""
    if service is not None:
        return "systemctl daemon-reload && systemctl enable --now hsmd"
    run = f"hsmd serve --config {layout.config}"
    if not names.front:
        return run
    install = f"hsmd systemd install --config {layout.config} && systemctl daemon-reload && systemctl enable --now hsmd"
    return f"{install}\n{' ' * 25}(without systemd, as root: {run})"


def _next_steps(host: PublicLine, operator: Operator, address: str, start: str) -> str:
    options = ""
    where = ""
    if operator.profile is None:
        where = f" (on the computer of {operator.name})"
        options = f" --daemon {address} --user {operator.name} --identity KEY --host-key '{host.line}'"
    elif operator.profile != profiles.default_path().absolute():
        options = f" --profile {operator.profile}"
    return f"""
Next:
  1. Start the daemon:   {start}
  2. Check its status:   hsmd status{options}{where}
  3. Generate a key:     hsmd key generate www{options}
  4. Its certificate:    hsmd key csr www --dns www.example.org{options}   (or, to try it: hsmd cert self-signed)
  5. Add a front end:    hsmd client enroll web1 --grant www{options}
                         and there, with the line that this prints: hsmd agent init --enroll -
"""
