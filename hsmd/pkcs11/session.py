"""Opening a token: load the module, choose the token, log in once.

It runs in the daemon's workers and in programs of people who keep keys in a token of their own; never in front or launcher.

Steps: 1. take the start lock; 2. initialise the module, trying again if the token is not found; 3. check the PIN flags; 4. open
one session and log in, exactly once; 5. record a refusal. A person at a prompt is asked between 3 and 4, without the lock. The
module is never finalised after a login, because C_Finalize can hang and the process ends anyway.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pkcs11
from pkcs11 import Mechanism, TokenFlag

from hsmd.errors import Unavailable
from hsmd.pkcs11 import module_faults
from hsmd.pkcs11.attributes import TolerantMapper, printable
from hsmd.pkcs11.errors import name_of
from hsmd.pkcs11.mechanisms import USED
from hsmd.pkcs11.pin import ask_pin, has_outer_space, pin_path, read_pin
from hsmd.pkcs11.settings import TokenSettings
from hsmd.pkcs11.slots import slots_of
from hsmd.pkcs11.start_lock import StartLock, lock_path

TRIES = 5
_PAUSE_S = (0.05, 0.15)
_COUNTED = " counted"
"""Follows the version of a refused PIN file in the note, if the token showed that it had counted the refusal."""
_WARNINGS = TokenFlag.USER_PIN_COUNT_LOW | TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.USER_PIN_LOCKED
_MOST_SHOWN = 8
"""Tokens that the error about a missing one names."""

_LOGIN_REFUSALS = (
    pkcs11.PinIncorrect,
    pkcs11.PinInvalid,
    pkcs11.PinLenRange,
    pkcs11.PinExpired,
    pkcs11.PinLocked,
    pkcs11.UserPinNotInitialized,
)


class LoginRefused(Unavailable):
    """The token refused the PIN or would. Another try could lock it, so a person must check the PIN first."""


@dataclass(frozen=True, slots=True)
class OpenToken:
    """A token with its one logged-in session; as a context manager it closes the session. Its texts are printable."""

    label: str
    serial: str
    model: str
    mechanisms: frozenset[Mechanism]
    session: Any
    write_protected: bool = False
    """A read-write session was wanted and refused: this one only reads."""

    @property
    def abilities(self) -> list[str]:
        """Names of the mechanisms that hsmd uses and this token has."""
        return sorted(mechanism.name for mechanism in self.mechanisms & USED)

    def close(self) -> None:
        """Log out and close the session; the token destroys the session's objects. No error if the token is away."""
        with suppress(pkcs11.PKCS11Error):
            self.session.close()

    def __enter__(self) -> OpenToken:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_token(settings: TokenSettings, waiting: Callable[[], None] = lambda: None) -> OpenToken:
    """Open the token that `settings` choose and log in, with a read-write session if `read_write` is set and the token allows it.

    Raises LoginRefused, or Unavailable if the token cannot be reached, or ConfigurationError for a bad PIN file or if there is
    no terminal to ask at. A process can have one token open. `waiting` is called now and then while others start.
    """
    if settings.prompt:
        return _open_at_prompt(settings)
    with StartLock(lock_path(settings), waiting) as lock:
        return _log_in_from_file(settings, _find(settings), lock)


def check_without_login(settings: TokenSettings, version: str) -> str:
    """Find the token and look at what it tells about its PIN; returns its description.

    `version` is that of the PIN file. Raises as `open_token`, LoginRefused if workers would not try the PIN. Nothing is sent to
    the token that it counts.
    """
    with StartLock(lock_path(settings)) as lock:
        token = _find(settings)
        _check_flags(token, cleared=False)
        _check_note(lock, version, token, settings)
        return f"found: {_named(token)}"


def _find(settings: TokenSettings) -> Any:
    """The token. Several tries may be needed if other programs initialise the module at the same time."""
    failure = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(random.uniform(*_PAUSE_S))
        try:
            library = pkcs11.lib(settings.module)
            if attempt:
                library.reinitialize()
        except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
            if module_faults.is_about_loading(error):
                failure = module_faults.why_not_loaded(settings.module, error)
                break
            failure = module_faults.why_not_started(settings.module, error)
            continue
        try:
            return _choose(library, settings)
        except pkcs11.MultipleTokensReturned as error:
            failure = f"{_not_found(settings)}: {error}"
            break
        except pkcs11.NoSuchToken as error:
            failure = f"{_not_found(settings)}: {error}"
        except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
            reason = name_of(error) if isinstance(error, pkcs11.PKCS11Error) else str(error)
            failure = f"{_not_found(settings)}: {reason}"
    raise Unavailable(failure)


def _not_found(settings: TokenSettings) -> str:
    return f"token {settings.name!r} not found with {settings.module}"


def _choose(library: Any, settings: TokenSettings) -> Any:
    """The one token with the label, serial number or slot; python-pkcs11's search does not support slots.

    A slot that fails is left out: it takes no other slot's token away.
    """
    found, others = [], []
    for slot in slots_of(library):
        if settings.slot is not None and slot.slot_id != settings.slot:
            others.append(f"a token in slot {slot.slot_id}")
            continue
        try:
            token = slot.get_token()
        except (pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
            continue
        except pkcs11.PKCS11Error as error:
            others.append(f"slot {slot.slot_id}, which answers {name_of(error)}")
            continue
        if _fits(token, settings):
            found.append(token)
        else:
            others.append(_named(token))
    found = [token for token in found if token.flags & TokenFlag.TOKEN_INITIALIZED] or found
    if not found:
        shown = f"it shows {', '.join(others[:_MOST_SHOWN])}" if others else "it shows no token"
        more = f" and {len(others) - _MOST_SHOWN} more" if len(others) > _MOST_SHOWN else ""
        raise pkcs11.NoSuchToken(
            f"no token has {_selection(settings)}; {shown}{more}; insert it, or correct label, serial or slot"
        )
    if len(found) > 1:
        raise pkcs11.MultipleTokensReturned(
            f"{len(found)} tokens have {_selection(settings)}: {', '.join(map(_named, found[:_MOST_SHOWN]))}; choose one by "
            f'`serial = "..."` in place of the label, or by `slot`'
        )
    return found[0]


def _fits(token: Any, settings: TokenSettings) -> bool:
    if settings.slot is not None:
        return bool(token.slot.slot_id == settings.slot)
    if settings.serial:
        return _serial(token) == settings.serial
    return settings.label in (token.label, _label(token))


def _label(token: Any) -> str:
    """The label, printable and without its padding, which is of NULs with some tokens."""
    return printable(token.label.rstrip("\0 ").encode())


def _serial(token: Any) -> str:
    serial: bytes = token.serial
    return printable(serial.rstrip(b"\0 "))


def _named(token: Any) -> str:
    if not token.flags & TokenFlag.TOKEN_INITIALIZED:
        return f"a token that is not initialised (slot {token.slot.slot_id})"
    return f"'{_label(token)}' (serial {_serial(token)}, slot {token.slot.slot_id})"


def _selection(settings: TokenSettings) -> str:
    if settings.slot is not None:
        return f"slot {settings.slot}"
    return f"serial {settings.serial!r}" if settings.serial else f"label {settings.label!r}"


def _check_flags(token: Any, *, cleared: bool) -> None:
    """Raise LoginRefused if the token's flags show a refused PIN since the last successful login.

    The next try could lock the token, and its PIN may be wrong too: another daemon may have tried the same one.
    """
    if token.flags & TokenFlag.USER_PIN_LOCKED:
        raise LoginRefused("the token's user PIN is locked; unlock it with the SO PIN")
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise LoginRefused(
            "the token's user PIN is one try from being locked; log in with another program or reset it"
        )
    if token.flags & TokenFlag.USER_PIN_COUNT_LOW and not cleared:
        raise LoginRefused(
            "the token reports a wrong PIN since the last successful login; check the PIN, then log in once at a prompt "
            "or with another program"
        )


def _check_note(lock: StartLock, version: str, token: Any, settings: TokenSettings) -> None:
    """Raise LoginRefused if this version of the PIN file was refused: it is still the same PIN.

    That an operator has cleared the token's logins does not matter, because the file may have been corrected and not the copy
    of it that systemd made when the daemon started. If the token had counted the refusal and no longer shows that, its PIN was
    set anew, or another program has logged in: then the file may be right after all.
    """
    refused, _, counted = lock.note.partition(" ")
    if not version or refused != version:
        return
    if settings.cleared and counted and not token.flags & _WARNINGS:
        return
    if settings.pin_credential:
        fix = "correct the PIN file, then restart the daemon, which has a copy from its start: systemctl restart hsmd"
    else:
        fix = f"write the right PIN into it, or, if the token's PIN was changed instead: touch {settings.pin_file}"
    raise LoginRefused(
        f"the PIN in {pin_path(settings)} is still the one that was refused, and was not tried again; {fix}"
    )


def _log_in_from_file(settings: TokenSettings, token: Any, lock: StartLock) -> OpenToken:
    path = pin_path(settings)
    pin, version = read_pin(path, settings.pin_fd)
    try:
        _check_flags(token, cleared=settings.cleared)
        _check_note(lock, version, token, settings)
        try:
            opened = _log_in(settings, token, pin, f"the PIN in {path}")
        except LoginRefused:
            lock.write_note(version + (_COUNTED if _flags_now(token) & _WARNINGS else ""))
            raise
    finally:
        del pin  # otherwise the traceback of an error would keep it
    lock.write_note("")
    return opened


def _open_at_prompt(settings: TokenSettings) -> OpenToken:
    """Ask a person between finding the token and logging in, so that other processes need not wait for the answer.

    The lock's note is about a PIN file and stays as it is. A warning of the token does not forbid a try: a person is there.
    """
    with StartLock(lock_path(settings)):
        token = _find(settings)
    _check_flags(token, cleared=True)
    pin = ask_pin(_question(token))
    try:
        with StartLock(lock_path(settings)):
            return _log_in(settings, token, pin, "this PIN")
    finally:
        del pin


def _question(token: Any) -> str:
    warned = token.flags & TokenFlag.USER_PIN_COUNT_LOW
    warning = "The last PIN that this token got was wrong. " if warned else ""
    return f"{warning}PIN of token '{_label(token)}' (serial '{_serial(token)}'): "


def _log_in(settings: TokenSettings, token: Any, pin: str, what: str) -> OpenToken:
    """One try to log in; `what` names the PIN in errors."""
    try:
        with _signals_held():
            session = _open_session(token, pin, read_write=settings.read_write)
    except _LOGIN_REFUSALS as error:
        space = (
            "; the PIN begins or ends with white space, which may not belong to it"
            if has_outer_space(pin)
            else ""
        )
        raise LoginRefused(
            f"the token refused {what}: {name_of(error)}; {_tries_left(token)}{space}"
        ) from None
    except pkcs11.PKCS11Error as error:
        raise Unavailable(f"login failed: {name_of(error)}") from None
    finally:
        del pin
    return OpenToken(
        label=_label(token),
        serial=_serial(token),
        model=printable(token.model.encode()),
        mechanisms=frozenset(found for found in token.slot.get_mechanisms() if isinstance(found, Mechanism)),
        session=session,
        write_protected=settings.read_write and not session.rw,
    )


@contextmanager
def _signals_held() -> Iterator[None]:
    """Whoever ends this process waits until the block has ended, unless by SIGKILL.

    SoftHSM writes its token's file anew at each login, and a process that ends meanwhile leaves it empty: the token is lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _open_session(token: Any, pin: str, *, read_write: bool) -> Any:
    """A session with one try to log in; read-only if the token is write-protected, which it says before it gets the PIN."""
    try:
        return token.open(rw=read_write, user_pin=pin, attribute_mapper=TolerantMapper())
    except (pkcs11.TokenWriteProtected, pkcs11.SessionReadOnly):
        if not read_write:
            raise
        return token.open(rw=False, user_pin=pin, attribute_mapper=TolerantMapper())
    finally:
        del pin


def can_write(session: Any) -> bool:
    """Whether the token would now open a read-write session, in a process that is logged in."""
    try:
        opened = session.token.open(rw=True)
    except pkcs11.PKCS11Error:
        return False
    with suppress(pkcs11.PKCS11Error):
        opened.close()
    return True


def _tries_left(token: Any) -> str:
    """What the token's flags tell now about tries; PKCS#11 has no number."""
    flags = _flags_now(token)
    if flags & TokenFlag.USER_PIN_LOCKED:
        return "its user PIN is locked now; unlock it with the SO PIN"
    if flags & TokenFlag.USER_PIN_FINAL_TRY:
        return "one more wrong PIN locks it"
    if flags & TokenFlag.USER_PIN_COUNT_LOW:
        return "it counts wrong PINs and does not say how many tries are left"
    return "it does not say how many tries are left"


def _flags_now(token: Any) -> TokenFlag:
    """The token's flags as they are now; none if it does not answer."""
    try:
        flags: TokenFlag = token.slot.get_token().flags
    except pkcs11.PKCS11Error:
        return TokenFlag(0)
    return flags
