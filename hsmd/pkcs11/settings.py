"""Which token to open, and with which PIN: the settings of one PKCS#11 session. Imports no python-pkcs11."""

from __future__ import annotations

import msgspec


class TokenSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach one token.

    `name` is what hsmd calls the token in messages. The token is chosen by exactly one of `label`, `serial` and `slot`. The
    PIN comes from `pin_file` or from the systemd credential `pin_credential`, which is already open as `pin_fd` where only
    root may open it. `read_write` opens a session that can make and destroy objects. `cleared` means that an operator has
    corrected the PIN: it is tried even if it was refused before or the token's flags warn. `lock_file` serialises starts on
    this host; empty for the default place.
    """

    name: str = ""
    module: str
    label: str = ""
    serial: str = ""
    slot: int | None = None
    pin_file: str = ""
    pin_credential: str = ""
    pin_fd: int = -1
    lock_file: str = ""
    read_write: bool = False
    cleared: bool = False
