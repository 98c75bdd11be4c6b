"""How a command ends: exit codes, and the line `what happened - what to do next` for each kind of error.

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed, or the daemon refused |
| 2 | wrong use: arguments, options, or a configuration file |
| 3 | no daemon or agent could be reached, or it cannot take the request right now: try again later |
| 4 | a check was carried out and its answer is no (`agent check`, `audit verify`, `grant explain`) |
| 130 | interrupted |
"""

from __future__ import annotations

from enum import IntEnum

from hsmd import errors
from hsmd.errors import HsmdError


class Exit(IntEnum):
    """Exit codes of `hsmd`."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    PROBLEMS = 4
    INTERRUPTED = 130


class CommandError(Exception):
    """A command ends here: `what` happened, `next_step` mends it, `code` is the exit code."""

    def __init__(self, what: str, next_step: str, code: Exit = Exit.FAILED) -> None:
        self.what = what
        self.next_step = next_step
        self.code = code
        super().__init__(self.line)

    @property
    def line(self) -> str:
        """The one line people read."""
        return f"hsmd: {self.what} - {self.next_step}" if self.next_step else f"hsmd: {self.what}"


class CheckFailed(Exception):
    """The answer is printed already and says what is wrong; the exit code is 4."""


_ADVICE: tuple[tuple[type[HsmdError], str, Exit], ...] = (
    (errors.ConfigurationError, "mend the file and run the command again", Exit.USAGE),
    (
        errors.Refused,
        "this identity may not do that, or nothing has that name; `hsmd status` shows who you are to the daemon",
        Exit.FAILED,
    ),
    (errors.NotFound, "the `list` command of the group shows what there is", Exit.FAILED),
    (errors.BadRequest, "correct it and try again; --help shows an example", Exit.FAILED),
    (errors.Conflict, "choose another name, or remove what is there first", Exit.FAILED),
    (
        errors.PurposeMismatch,
        "the key may not be used that way; `hsmd key show` lists its purposes",
        Exit.FAILED,
    ),
    (
        errors.Unavailable,
        "check that it runs and can be reached, then try again",
        Exit.UNREACHABLE,
    ),
    (errors.Overloaded, "try again in a moment", Exit.UNREACHABLE),
    (errors.Draining, "the daemon is stopping; try again once it is back", Exit.UNREACHABLE),
    (
        errors.DeadlineExceeded,
        "it may still be carried out: look before you repeat it, and give it longer with --timeout",
        Exit.UNREACHABLE,
    ),
    (errors.TokenFailure, "the daemon's log says what the token reported", Exit.FAILED),
    (errors.AuditFailure, "free space or mend the audit directory on the daemon's host", Exit.FAILED),
    (errors.StoreFailure, "check the database on the daemon's host", Exit.FAILED),
    (
        errors.VersionMismatch,
        "bring client and daemon to releases that share a protocol version",
        Exit.FAILED,
    ),
    (
        errors.ProtocolError,
        "is this the address of an hsmd daemon, of a release that fits this one?",
        Exit.FAILED,
    ),
)


def command_error(error: HsmdError) -> CommandError:
    """The end of a command that met `error`."""
    for kind, next_step, code in _ADVICE:
        if isinstance(error, kind):
            return CommandError(_one_line(error), next_step, code)
    return CommandError(_one_line(error), "run it again with --debug and report it", Exit.FAILED)


def missing_package(error: ModuleNotFoundError) -> CommandError:
    """The end of a command that needs a package this installation does not have."""
    return CommandError(
        f"this command needs the package {error.name}, which is not installed",
        "run: pip install 'hsmd[daemon]'",
    )


def _one_line(error: HsmdError) -> str:
    text = "; ".join(line for line in error.text.splitlines() if line)
    return f"{text} ({error.detail})" if error.detail else text
