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
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror}"]) from None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        _check_mode(path, found)
        content = file.read(MAX_PIN_BYTES + 2)
    pin = content.removesuffix(b"\n").removesuffix(b"\r")
    if not 1 <= len(pin) <= MAX_PIN_BYTES or b"\n" in pin or b"\0" in pin:
        raise ConfigurationError(
            str(path), [f"must hold the PIN alone, on one line of at most {MAX_PIN_BYTES} bytes"]
        )
    try:
        text = pin.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(str(path), ["the PIN is not UTF-8"]) from None
    return text, f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


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
