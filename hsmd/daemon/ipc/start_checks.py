"""Checks of what a daemon needs to start, each made by the user and in the kind of process that will need it.

The front's part runs as `hsmd.daemon.front.start_check`, a token's as `hsmd.daemon.worker.start_check`. They change nothing,
except that a login to the token uses one try of a PIN that is wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import msgspec

from hsmd.daemon.config.settings import Config
from hsmd.daemon.ipc.spawn import environment_for, start_python, start_worker_module
from hsmd.daemon.ipc.worker_settings import WorkerSettings

CHECK_TIMEOUT_S = 60.0
"""Time for one process: a module may have to reach its HSM over the network."""


class CheckResult(msgspec.Struct, frozen=True):
    """The result of checking `subject`; with `fix`, what to do, if it is not `ok`."""

    subject: str
    ok: bool
    text: str
    fix: str = ""


def good(subject: str, text: str) -> CheckResult:
    """A successful check."""
    return CheckResult(subject, True, text)


def bad(subject: str, text: str, fix: str) -> CheckResult:
    """A problem, and what to do."""
    return CheckResult(subject, False, text, fix)


def encode(results: list[CheckResult]) -> bytes:
    """What a checking process writes to standard output."""
    return msgspec.json.encode(results)


def check_front(config: Config) -> list[CheckResult]:
    """Check host key, addresses, store and audit log, as the front's user."""
    user = config.users.front if os.geteuid() == 0 else ""
    try:
        process = start_python(
            "hsmd.daemon.front.start_check",
            ["--config", str(config.path)],
            environment=environment_for(user),
            descriptors=[],
            user=user,
            stdout=subprocess.PIPE,
        )
    except OSError as error:
        return [_not_started("front process", user, error)]
    return _results(process, "front process")


def check_token(
    settings: WorkerSettings, environment: Mapping[str, str], *, login: bool
) -> list[CheckResult]:
    """Check the module, the token and the PIN file, as the workers' user; with `login` log in once."""
    subject = f"token {settings.token.name}"
    try:
        process = start_worker_module(
            "hsmd.daemon.worker.start_check",
            ["--login"] if login else [],
            settings,
            environment=environment,
            descriptors=[],
            stdout=subprocess.PIPE,
        )
    except OSError as error:
        return [_not_started(subject, settings.user, error)]
    return _results(process, subject)


def _results(process: subprocess.Popen[bytes], subject: str) -> list[CheckResult]:
    try:
        output, _ = process.communicate(timeout=CHECK_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return [
            bad(subject, f"no answer within {CHECK_TIMEOUT_S:.0f} s", "check that the token can be reached")
        ]
    try:
        return msgspec.json.decode(output, type=list[CheckResult])
    except msgspec.MsgspecError:
        fix = "see the error above; all users must be able to read the directory in which hsmd is installed"
        return [bad(subject, f"the checking process ended with status {process.returncode}", fix)]


def _not_started(subject: str, user: str, error: OSError) -> CheckResult:
    who = f"the user {user}" if user else "this user"
    return bad(
        subject,
        f"{who} cannot run {sys.executable}: {error.strerror}",
        "install hsmd where all users can read it, for example in a virtual environment below /opt",
    )
