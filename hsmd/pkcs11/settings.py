"""The settings of one PKCS#11 session: which token to open, and with which PIN. Does not import python-pkcs11."""

from __future__ import annotations

import msgspec


class TokenSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to open one token.

    `name` is the token's name in messages. The token is chosen by exactly one of `label`, `serial` and `slot`. The PIN comes
    from `pin_file` or from the systemd credential `pin_credential`, which are passed open as `pin_fd` if only root may open
    them, or with `prompt` from a person at the terminal. `read_write` opens a session that can create and destroy objects.
    `cleared` means that an operator has corrected the PIN: it is tried even if it was refused before or the token's flags
    warn. `lock_file` serialises starts on this host; empty for the default path.
    """

    name: str = ""
    module: str
    label: str = ""
    serial: str = ""
    slot: int | None = None
    pin_file: str = ""
    pin_credential: str = ""
    pin_fd: int = -1
    prompt: bool = False
    lock_file: str = ""
    read_write: bool = False
    cleared: bool = False
