"""Opening a token: load the module, choose the token, log in once. Runs in a worker, never in another process.

Steps: 1. take the start lock; 2. initialise the module, trying again if the token is not found; 3. check the PIN flags; 4. open
one session and log in, exactly once; 5. record a refusal. The module is never finalised after a login, because C_Finalize can
hang and the process ends anyway.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

import pkcs11
from pkcs11 import Mechanism, TokenFlag

from hsmd.errors import Unavailable
from hsmd.pkcs11.errors import name_of
from hsmd.pkcs11.mechanisms import USED
from hsmd.pkcs11.pin import pin_path, read_pin
from hsmd.pkcs11.settings import TokenSettings
from hsmd.pkcs11.start_lock import StartLock, lock_path

TRIES = 5
_PAUSE_S = (0.05, 0.15)

_LOGIN_REFUSALS = (
    pkcs11.PinIncorrect,
    pkcs11.PinInvalid,
    pkcs11.PinLenRange,
    pkcs11.PinExpired,
    pkcs11.PinLocked,
    pkcs11.UserPinNotInitialized,
)


class LoginRefused(Unavailable):
    """The token refused the PIN or would. Another try could lock it, so an operator must check it first."""


@dataclass(frozen=True, slots=True)
class OpenToken:
    """A token with its one logged-in session."""

    label: str
    serial: str
    model: str
    mechanisms: frozenset[Mechanism]
    session: Any

    @property
    def abilities(self) -> list[str]:
        """Names of the mechanisms that hsmd uses and this token has."""
        return sorted(mechanism.name for mechanism in self.mechanisms & USED)


def open_token(settings: TokenSettings) -> OpenToken:
    """Open the token that `settings` choose and log in, with a read-write session if `read_write` is set.

    Raises LoginRefused, or Unavailable if the token cannot be reached, or ConfigurationError for a bad PIN file.
    """
    with StartLock(lock_path(settings)) as lock:
        token = _find(settings)
        return _log_in(settings, token, lock)


def _find(settings: TokenSettings) -> Any:
    """The token. Several tries may be needed if other programs initialise the module at the same time."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(random.uniform(*_PAUSE_S))
        try:
            library = pkcs11.lib(settings.module)
            if attempt:
                library.reinitialize()
            return _choose(library, settings)
        except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
            failure = name_of(error) if isinstance(error, pkcs11.PKCS11Error) else str(error)
    raise Unavailable(detail=f"token {settings.name!r} not found with {settings.module}: {failure}")


def _choose(library: Any, settings: TokenSettings) -> Any:
    """The one token with the label, serial number or slot; python-pkcs11's search does not support slots."""
    found = []
    for slot in library.get_slots(token_present=True):
        try:
            token = slot.get_token()
        except (pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
            continue
        if _fits(token, settings):
            found.append(token)
    if not found:
        raise pkcs11.NoSuchToken
    if len(found) > 1:
        raise pkcs11.MultipleTokensReturned
    return found[0]


def _fits(token: Any, settings: TokenSettings) -> bool:
    if settings.slot is not None:
        return bool(token.slot.slot_id == settings.slot)
    if settings.serial:
        return bool(token.serial.decode("ascii", "replace") == settings.serial)
    return bool(token.label == settings.label)


def _check_flags(token: Any, *, cleared: bool) -> None:
    """Raise LoginRefused if the token's flags show a refused PIN since the last successful login.

    The next try could lock the token, and its PIN may be wrong too: another daemon may have tried the same one.
    """
    if token.flags & TokenFlag.USER_PIN_LOCKED:
        raise LoginRefused(detail="the token's user PIN is locked; unlock it with the SO PIN")
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise LoginRefused(
            detail="the token's user PIN is one try from being locked; log in with another program or reset it"
        )
    if token.flags & TokenFlag.USER_PIN_COUNT_LOW and not cleared:
        raise LoginRefused(
            detail="the token reports a wrong PIN since the last successful login; check the PIN"
        )


def _log_in(settings: TokenSettings, token: Any, lock: StartLock) -> OpenToken:
    path = pin_path(settings)
    pin, version = read_pin(path, settings.pin_fd)
    _check_flags(token, cleared=settings.cleared)
    if lock.note == version and not settings.cleared:
        raise LoginRefused(
            detail=f"{path} was refused before and has not changed since; write the right PIN into it"
        )
    try:
        session = token.open(rw=settings.read_write, user_pin=pin)
    except _LOGIN_REFUSALS as error:
        lock.write_note(version)
        raise LoginRefused(detail=f"the token refused the PIN in {path}: {name_of(error)}") from None
    except pkcs11.PKCS11Error as error:
        raise Unavailable(detail=f"login failed: {name_of(error)}") from None
    lock.write_note("")
    return OpenToken(
        label=token.label,
        serial=token.serial.decode("ascii", "replace"),
        model=token.model,
        mechanisms=frozenset(found for found in token.slot.get_mechanisms() if isinstance(found, Mechanism)),
        session=session,
    )
