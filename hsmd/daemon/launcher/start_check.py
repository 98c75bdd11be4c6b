"""Whether a daemon could start with a configuration: its own checks, and those made as the users of front and workers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hsmd.daemon.config.settings import Config
from hsmd.daemon.ipc.start_checks import CheckResult, bad, check_front, check_token, good
from hsmd.daemon.ipc.worker_settings import WorkerSettings, worker_settings
from hsmd.daemon.launcher import config_check
from hsmd.system import host_users


def check(
    path: Path, *, tokens: bool, login: bool, credentials: Mapping[str, Path] | None = None
) -> list[CheckResult]:
    """All results, with or without those of tokens. With `login`, log in once to each token. `credentials` are the files that
    systemd would pass, for a check outside of the service.

    Raises ConfigurationError if the file is wrong.
    """
    config = config_check.load(path)
    if os.geteuid() == 0 and (other := _other_user(config)):
        return [good("configuration", str(path)), other]
    results = [good("configuration", str(path)), *check_front(config)]
    for token in config.tokens if tokens else ():
        settings = worker_settings(config, token, control=False, cleared=login)
        if credentials and settings.token.pin_credential in credentials:
            settings = _with_pin_file(settings, credentials[settings.token.pin_credential])
        results += check_token(settings, token.environment, login=login)
    return results


def _with_pin_file(settings: WorkerSettings, file: Path) -> WorkerSettings:
    token = msgspec.structs.replace(settings.token, pin_file=str(file), pin_credential="")
    return msgspec.structs.replace(settings, token=token)


def _other_user(config: Config) -> CheckResult | None:
    """The problem that root would check a daemon which another user runs: modules of tokens would run as root."""
    if config.users.front or config.users.workers:
        return None
    try:
        owner = config.listen.host_key.stat().st_uid
    except OSError:
        return None
    if owner == 0:
        return None
    user = host_users.by_uid(owner).name
    return bad(
        "users",
        f"the host key belongs to {user}, who seems to run this daemon, and nothing was checked as root",
        f"run the check as {user}: runuser -u {user} -- hsmd serve --check --config {config.path}",
    )
