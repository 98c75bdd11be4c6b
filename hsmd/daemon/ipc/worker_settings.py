"""The settings that a token worker gets when it starts."""

from __future__ import annotations

import os

import msgspec

from hsmd.daemon.config.settings import Config, TokenConfig
from hsmd.pkcs11.settings import TokenSettings


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one worker.

    `verify` is "rsa" or "all": which signatures are verified before they are sent. A `control` worker creates and destroys
    keys and does not use them. `user` is the user that the process runs as, empty for no change. `sandbox` ("on" or "off")
    and `network` configure its seccomp filter, `lock_memory` ("auto", "always" or "never") its memory.
    """

    token: TokenSettings
    verify: str = "rsa"
    control: bool = False
    log_level: str = "info"
    user: str = ""
    sandbox: str = "on"
    network: bool = False
    lock_memory: str = "auto"


def worker_settings(
    config: Config, token: TokenConfig, *, control: bool, cleared: bool = False
) -> WorkerSettings:
    """The settings of a worker for `token`, which changes its user only if this process may change users."""
    return WorkerSettings(
        token=msgspec.structs.replace(token.settings, read_write=control, cleared=cleared),
        verify=token.verify,
        control=control,
        log_level=config.log_level,
        user=config.users.workers if os.geteuid() == 0 else "",
        sandbox=token.sandbox,
        network=token.network,
        lock_memory=token.lock_memory,
    )
