"""Checks whether workers could use a token: `python -m hsmd.daemon.worker.start_check [--login]`, settings on standard input.

It writes the results to standard output as JSON. Without --login no PIN is sent to the token.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

from hsmd.daemon.ipc import sandbox
from hsmd.daemon.ipc.start_checks import CheckResult, bad, encode, good
from hsmd.daemon.ipc.worker_settings import WorkerSettings
from hsmd.daemon.worker.main import EXIT_CRASHED, read_settings
from hsmd.errors import ConfigurationError, HsmdError
from hsmd.pkcs11.pin import pin_path, read_pin
from hsmd.pkcs11.session import LoginRefused, check_without_login, open_token
from hsmd.pkcs11.settings import TokenSettings
from hsmd.system.process import harden


def main() -> NoReturn:
    """Check one token; never returns."""
    status = EXIT_CRASHED
    try:
        harden()
        sys.stdout.buffer.write(encode(_check(read_settings(), login="--login" in sys.argv)))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _check(settings: WorkerSettings, *, login: bool) -> list[CheckResult]:
    token = settings.token
    subject = f"token {token.name}"
    try:
        install_sandbox = sandbox.prepare(settings)
    except HsmdError as error:
        return [_problem(subject, error)]
    if login:
        results = [_log_in(token)]
    else:
        version, pin = _look_at_pin(token)
        try:
            results = [good(subject, check_without_login(token, version)), pin]
        except HsmdError as error:
            results = [_problem(subject, error), pin]
    install_sandbox()
    return results


def _log_in(settings: TokenSettings) -> CheckResult:
    subject = f"token {settings.name}"
    try:
        token = open_token(settings)
    except HsmdError as error:
        return _problem(subject, error)
    protected = (
        "; it is write-protected: keys are used, but none can be made" if token.write_protected else ""
    )
    return good(subject, f"{token.label!r}, serial number {token.serial}, accepts the PIN{protected}")


def _look_at_pin(settings: TokenSettings) -> tuple[str, CheckResult]:
    """The version of the PIN file, empty if it cannot be used, and the result. The PIN is not tried."""
    subject = f"PIN of token {settings.name}"
    try:
        path = pin_path(settings)
        version = read_pin(path, settings.pin_fd)[1]
    except ConfigurationError as error:
        return "", _problem(subject, error)
    return version, good(subject, f"{path} can be read; it was not tried (--login tries it once)")


def _problem(subject: str, error: HsmdError) -> CheckResult:
    text = error.detail or error.text
    if isinstance(error, LoginRefused):
        return bad(subject, text, "the PIN file must hold the PIN of the token's user")
    problem, _, fix = text.rpartition("; ")
    return bad(subject, problem, fix) if problem else bad(subject, fix, "correct this, and check again")


if __name__ == "__main__":
    main()
