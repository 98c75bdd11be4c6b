"""Whether a daemon could start with a configuration: its own checks, and those made as the users of front and workers."""

from __future__ import annotations

from pathlib import Path

from hsmd.daemon.ipc.start_checks import CheckResult, check_front, check_token, good
from hsmd.daemon.ipc.worker_settings import worker_settings
from hsmd.daemon.launcher import config_check


def check(path: Path, *, tokens: bool, login: bool) -> list[CheckResult]:
    """All results, with or without those of tokens. With `login`, log in once to each token.

    Raises ConfigurationError if the file is wrong.
    """
    config = config_check.load(path)
    results = [good("configuration", str(path)), *check_front(config)]
    for token in config.tokens if tokens else ():
        settings = worker_settings(config, token, control=False, cleared=login)
        results += check_token(settings, token.environment, login=login)
    return results
