"""Passphrases of commands: typed at the terminal without echo, or read from a file descriptor.

Never in arguments or the environment, which other processes can read.
"""

from __future__ import annotations

import getpass
import os
import warnings

from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import note

MAX_BYTES = 1_024


def known(question: str, fd: int | None = None, *, option: str = "--passphrase-fd") -> bytes:
    """The passphrase of something that exists. Raises CommandError."""
    return _from_fd(fd, option) if fd is not None else _typed(question, option)


def fresh(what: str, fd: int | None = None, *, option: str = "--passphrase-fd", least: int = 1) -> bytes:
    """The passphrase of something new, of at least so many characters, typed twice. Raises CommandError."""
    if fd is not None:
        return _long_enough(_from_fd(fd, option), least, f"{option}: the passphrase")
    first = _long_enough(
        _typed(f"New passphrase for {what}: ", option), least, "the passphrase that you typed"
    )
    if _typed("The same again: ", option) != first:
        raise CommandError(
            "the two passphrases differ; nothing was written", "run the command again", Exit.USAGE
        )
    return first


def _long_enough(passphrase: bytes, least: int, what: str) -> bytes:
    characters = len(passphrase.decode("utf-8", "surrogateescape"))
    if characters < least:
        raise CommandError(
            f"{what} has {characters} characters; at least {least} are needed",
            "choose a longer one",
            Exit.USAGE,
        )
    return passphrase


def _from_fd(fd: int, option: str) -> bytes:
    """One line, without its end, and nothing behind it."""
    try:
        with open(fd, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 3)
    except OSError as error:
        raise CommandError(
            f"{option}: file descriptor {fd} cannot be read: {os.strerror(error.errno or 0)}",
            f"redirect a file or pipe to it, for example: {option} 3 3< passphrase-file",
            Exit.USAGE,
        ) from None
    return _checked(content.removesuffix(b"\n").removesuffix(b"\r"), option)


def _typed(question: str, option: str) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", getpass.GetPassWarning
        )  # it would read an echoed one, or one from a pipe
        try:
            text = getpass.getpass(question)
        except KeyboardInterrupt:
            note("")  # the prompt has no end of line
            raise
        except EOFError:
            raise CommandError(
                "no passphrase was typed; nothing was done", f"type it, or give it with {option}", Exit.USAGE
            ) from None
        except getpass.GetPassWarning:
            raise CommandError(
                "there is no terminal to ask for the passphrase", f"give it with {option}", Exit.USAGE
            ) from None
    return _checked(text.encode("utf-8", "surrogateescape"), option)


def _checked(content: bytes, option: str) -> bytes:
    if not content:
        raise CommandError("the passphrase is empty", f"type it, or give it with {option}", Exit.USAGE)
    if len(content) > MAX_BYTES or b"\n" in content or b"\0" in content:
        raise CommandError(
            f"a passphrase is one line of at most {MAX_BYTES} bytes", f"correct {option}", Exit.USAGE
        )
    return content
