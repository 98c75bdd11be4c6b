"""Reading the PIN: from a file that only its owner can read, from a systemd credential, or from a person at the terminal.

It is never in an argument list or the environment, which other processes can read.
"""

from __future__ import annotations

import getpass
import os
import stat
import warnings
from pathlib import Path

from hsmd.errors import ConfigurationError
from hsmd.pkcs11.settings import TokenSettings

MAX_PIN_BYTES = 255
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_INVISIBLE = frozenset("\ufeff\u200b\u200c\u200d\u2060")
"""Characters of no width (ZERO WIDTH NO-BREAK SPACE and its kind)."""


def pin_path(settings: TokenSettings) -> Path:
    """The file that holds the PIN. Raises ConfigurationError if neither the settings nor systemd name one."""
    if settings.pin_file:
        return Path(settings.pin_file)
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not settings.pin_credential or not directory:
        raise ConfigurationError(
            "pin_credential",
            ["systemd passed no credentials; add LoadCredential= to the unit, or name a pin_file"],
        )
    return Path(directory, settings.pin_credential)


def read_pin(path: Path, opened: int = -1) -> tuple[str, str]:
    """(PIN, version of the file). `opened` is a descriptor of the file if it is already open; it is closed.

    One line end is removed. The version changes with every change of the file. Raises ConfigurationError with the fix.
    """
    try:  # O_NONBLOCK: otherwise a pipe would keep this waiting before it is refused
        fd = opened if opened >= 0 else os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror}; no PIN was tried"]) from None
    try:
        found = os.fstat(fd)
        _check_mode(path, found)
    except BaseException:
        os.close(fd)
        raise
    with os.fdopen(fd, "rb") as file:
        content = file.read(MAX_PIN_BYTES + 5)  # with a byte order mark and a line end it is not yet too long
    pin = content.removesuffix(b"\n").removesuffix(b"\r")
    if fault := _fault_of(pin):
        raise ConfigurationError(str(path), [fault])
    return (
        pin.decode(),
        f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}",
    )


def _fault_of(pin: bytes) -> str:
    """Why a token cannot have this PIN, without any of it; empty if it may."""
    alone = f"write the PIN alone into it, on one line of at most {MAX_PIN_BYTES} bytes"
    if pin.startswith(_BYTE_ORDER_MARKS):
        return f"begins with a byte order mark, which an editor added; {alone}, as UTF-8 without a mark"
    if not pin:
        return f"is empty; {alone}"
    if len(pin) > MAX_PIN_BYTES:
        return f"is longer than a PIN can be; {alone}"
    if b"\n" in pin or b"\r" in pin:
        return f"has more than one line; {alone}"
    if any(byte < 0x20 or byte == 0x7F for byte in pin):
        return f"holds a control character; {alone}"
    try:
        text = pin.decode()
    except UnicodeDecodeError:
        return "the PIN is not UTF-8"
    if not text.strip():
        return f"holds nothing but white space; {alone}"
    if _INVISIBLE.intersection(text):
        return f"holds an invisible character, which an editor added; {alone}"
    return ""


def has_outer_space(pin: str) -> bool:
    """Whether a PIN begins or ends with white space: it may be right, but an editor may have added it."""
    return pin != pin.strip()


def ask_pin(question: str) -> str:
    """The PIN that a person types at the terminal, without echo. Raises ConfigurationError with the next step."""
    source = "PIN"
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", getpass.GetPassWarning
        )  # it would read an echoed PIN, or one from a pipe
        try:
            pin = getpass.getpass(question)
        except getpass.GetPassWarning:
            raise ConfigurationError(
                source, ["there is no terminal to ask for it; run this in a terminal, or name a pin_file"]
            ) from None
        except EOFError:
            pin = ""
    if not pin:
        raise ConfigurationError(source, ["none was entered, and none was tried"])
    if len(pin.encode("utf-8", "surrogateescape")) > MAX_PIN_BYTES or "\0" in pin:
        raise ConfigurationError(
            source, [f"must be one line of at most {MAX_PIN_BYTES} bytes; none was tried"]
        )
    if _INVISIBLE.intersection(pin):
        raise ConfigurationError(
            source, ["holds an invisible character, such as a byte order mark; none was tried"]
        )
    if any("\ud800" <= character <= "\udfff" for character in pin):
        raise ConfigurationError(source, ["is not UTF-8; none was tried"])
    return pin


def _check_mode(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(str(path), ["is not a regular file"])
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigurationError(
            str(path), [f"has mode {mode:04o}; others could read the PIN: chmod 0600 {path}"]
        )
