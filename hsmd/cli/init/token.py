"""The token of the daemon that `hsmd init` sets up: one that options name, or a new software token."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from hsmd.cli.base.daemon_toml import Layout, TokenChoice
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import exists
from hsmd.errors import ConfigurationError

if TYPE_CHECKING:
    from hsmd.daemon.config.settings import Config

SOFTHSM_LABEL = "hsmd"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


def token_from_options(
    module: Path | None,
    label: str,
    serial: str,
    pin_file: Path | None,
    environment: list[str],
    like: Config | None = None,
) -> TokenChoice:
    """The token that the options name, where they say nothing as the daemon `like` has it. Raises CommandError.

    Module and PIN file are checked as far as this user can read them.
    """
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
    _check_files(module, pin_file)
    return TokenChoice(module.absolute(), label, pin_file.absolute(), variables, name=name, serial=serial)


def make_software_token(layout: Layout, undo: ExitStack) -> TokenChoice:
    """A new SoftHSM token below the state directory, which `undo` removes. Raises CommandError if there is one."""
    from hsmd.pkcs11.softhsm import make_token

    directory = layout.state / "softhsm"
    if directory.exists():
        raise exists(directory)
    undo.callback(shutil.rmtree, directory, ignore_errors=True)
    made = make_token(directory, SOFTHSM_LABEL)
    return TokenChoice(made.module, made.label, made.pin_file, made.environment, name="softhsm")


def _environment(given: list[str]) -> dict[str, str]:
    found = dict(each.split("=", 1) for each in given if _VARIABLE.match(each))
    if len(found) != len(given):
        raise CommandError(
            "--environment: give NAME=VALUE, each name once",
            "for example SOFTHSM2_CONF=/etc/softhsm2.conf",
            Exit.USAGE,
        )
    return found


def _check_files(module: Path, pin_file: Path) -> None:
    for option, path in (("--module", module), ("--pin-file", pin_file)):
        if not path.is_file():
            raise CommandError(f"{option}: there is no file {path}", "correct the path", Exit.USAGE)
    if pin_file.stat().st_mode & 0o077:
        raise CommandError(
            f"other users can read the PIN in {pin_file}", f"run: chmod 600 {pin_file}", Exit.USAGE
        )
    if os.access(pin_file, os.R_OK):
        _check_pin(pin_file)


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
