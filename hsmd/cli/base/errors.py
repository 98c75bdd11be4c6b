"""Exit codes, and the line `what happened - what to do next` for each kind of error.

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed, or the daemon refused, also the value of an argument that only the daemon checks |
| 2 | usage error: arguments, options, or a configuration file, refused before a daemon is asked |
| 3 | the daemon or agent is unreachable or cannot accept the request now: try again later |
| 4 | a check failed (`agent check`, `audit verify`, `grant explain`, `serve --check`, `vault get`); handshakes fail (`status`) |
| 4 | also: no plan is safe; the plan is not what its topology demands, or not approved (`rollover plan`, `show`, `approve`) |
| 5 | handshakes work, but something needs attention (`status`, `agent status`, `agent check`) |
| 0, 3, 4, 5 | `vault check`, in place of the above: match and usable; mismatch; no answer; match, but not usable now |
| 10, 11, 12, 13 | `statement verify`: altered; of another kind; of an unknown key; not a statement |
| 130 | interrupted |
"""

from __future__ import annotations

import re
import sys
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
    DEGRADED = 5
    ALTERED = 10
    OTHER_KIND = 11
    UNKNOWN_KEY = 12
    MALFORMED = 13
    INTERRUPTED = 130


class CommandError(Exception):
    """The command failed: `what` happened, `next_step` is what the user can do, `code` is the exit code.

    `text` is for --json: the daemon's own text, if that differs from `what`.
    """

    def __init__(self, what: str, next_step: str, code: Exit = Exit.FAILED, *, text: str = "") -> None:
        self.what = what
        self.text = text or what
        self.next_step = next_step
        self.code = code
        super().__init__(self.line)

    @property
    def line(self) -> str:
        """The message for standard error."""
        return f"hsmd: {self.what} - {self.next_step}" if self.next_step else f"hsmd: {self.what}"


class CheckFailed(Exception):
    """A check failed and its result has been printed; the exit code is 4, or `code`."""

    def __init__(self, code: Exit = Exit.PROBLEMS) -> None:
        self.code = code
        super().__init__()


_ADVICE: tuple[tuple[type[HsmdError], str, Exit], ...] = (
    (errors.ConfigurationError, "correct the file and run the command again", Exit.USAGE),
    (
        errors.Refused,
        "you may not do this, or the name does not exist; `hsmd status` shows your identity and roles",
        Exit.FAILED,
    ),
    (errors.NotFound, "check the name or number", Exit.FAILED),
    (errors.BadRequest, "correct it and try again; --help shows an example", Exit.FAILED),
    (errors.Conflict, "choose another name, or remove the existing one first", Exit.FAILED),
    (
        errors.PurposeMismatch,
        "the key has other purposes; `hsmd key show` lists them",
        Exit.FAILED,
    ),
    (
        errors.Unavailable,
        "check that it is running and reachable, then try again",
        Exit.UNREACHABLE,
    ),
    (errors.Overloaded, "try again in a moment", Exit.UNREACHABLE),
    (errors.Draining, "the daemon is stopping; try again once it is back", Exit.UNREACHABLE),
    (
        errors.DeadlineExceeded,
        "the request may still take effect: check before you repeat it, and use a longer --timeout",
        Exit.UNREACHABLE,
    ),
    (errors.TokenFailure, "see the daemon's log for the token's error", Exit.FAILED),
    (
        errors.AuditFailure,
        "check free space and permissions of the audit directory on the daemon's host",
        Exit.FAILED,
    ),
    (errors.StoreFailure, "check the database on the daemon's host", Exit.FAILED),
    (
        errors.VersionMismatch,
        "upgrade client or daemon to releases that share a protocol version",
        Exit.FAILED,
    ),
    (
        errors.ProtocolError,
        "check that this is the address of an hsmd daemon of a compatible release",
        Exit.FAILED,
    ),
)


_OPTION_OF_MEMBER = {
    "accept_unsafe": "--accept-unsafe: ",
    "address": "--address: ",
    "adopt": "--adopt: ",
    "authority": "",
    "ca": "--ca: ",
    "certificate": "--certificate: ",
    "chain": "chain: ",
    "cka_id": "--id: ",
    "cka_label": "--label: ",
    "client": "",
    "clients": "--client: ",
    "common_name": "--common-name: ",
    "common_names": "--subject: ",
    "confirm": "",
    "days": "--days: ",
    "dns_names": "--dns: ",
    "emails": "--email: ",
    "excluded": "",
    "fingerprint": "--key: ",
    "force": "--force: ",
    "grants": "--grant: ",
    "index": "",
    "ip_addresses": "--ip: ",
    "key": "",
    "key_digest": "",
    "key_id": "--key-id: ",
    "key_type": "--type: ",
    "limits": "",
    "list_s": "--list-every: ",
    "lists_at": "--list-at: ",
    "unknown_until": "--unknown-until: ",
    "max_lifetime_s": "--max-hours: ",
    "max_uses": "--max-uses: ",
    "name": "",
    "names": "--allow-name: ",
    "new_name": "",
    "next_token": "--next-token: ",
    "not_after": "--not-after: ",
    "note": "the note: ",
    "organization": "--organization: ",
    "outside": "--outside: ",
    "owner": "--owner: ",
    "passphrase": "the passphrase file: ",
    "pem": "the key file: ",
    "permitted": "",
    "permitted_dns": "--dns: ",
    "profile": "--for: ",
    "profiles": "--for: ",
    "proof": "",
    "public_key": "public key: ",
    "purpose": "",
    "purposes": "--purpose: ",
    "reason": "--reason: ",
    "record": "",
    "request": "--request: ",
    "revoked": "--revoked: ",
    "role": "",
    "role_set": "--role: ",
    "roles": "--role: ",
    "serial": "--serial: ",
    "since": "--since: ",
    "term_s": "--term: ",
    "token": "--token: ",
}
"""What replaces the member of a control request at the start of an error."""

_BOUND = re.compile(
    r"control request: Expected `(?:int|str)` (of length )?([<>]=) ([0-9]+) - at `\$\.(\w+)(?:\[[0-9.]*\])?`"
)
_UNKNOWN_MEMBER = re.compile(r"control request: Object contains unknown field `(\w+)`")


def command_error(error: HsmdError) -> CommandError:
    """`error` with the advice in its text (`problem; advice`), or the advice for its kind."""
    text = _one_line(error)
    if isinstance(error, errors.NotInstalled):
        return CommandError(
            f"{error.name} is not installed",
            f"install it: apt-get install {error.package}",
            Exit.USAGE,
            text=text,
        )
    for kind, next_step, code in _ADVICE:
        if isinstance(error, kind):
            if kind in (errors.NotFound, errors.BadRequest, errors.Conflict):
                problem, _, advice = _in_users_words(text).rpartition("; ")
                what, then = (problem, advice) if problem else (advice, next_step)
                return CommandError(what, then, code, text=text)
            return CommandError(text, next_step, code)
    return CommandError(text, "report it with the output of --debug", Exit.FAILED)


def _in_users_words(text: str) -> str:
    if bound := _BOUND.fullmatch(text):
        limit = (
            f"{'at most' if bound[2] == '<=' else 'at least'} {bound[3]}{' characters' if bound[1] else ''}"
        )
        return f"{_OPTION_OF_MEMBER.get(bound[4], f'{bound[4]}: ')}{limit}"
    if unknown := _UNKNOWN_MEMBER.fullmatch(text):
        option = _OPTION_OF_MEMBER.get(unknown[1], "").removesuffix(": ") or unknown[1]
        return f"the daemon is of a release that does not know {option}; upgrade it, or leave that out"
    member, colon, rest = text.partition(": ")
    return _OPTION_OF_MEMBER[member] + rest if colon and member in _OPTION_OF_MEMBER else text


def missing_package(error: ModuleNotFoundError) -> CommandError:
    """The error of a command that needs a package that is not installed."""
    extra = "token" if error.name == "pkcs11" else "daemon"
    return CommandError(
        f"this command needs the package {error.name}, which is not installed",
        f"run: {sys.prefix}/bin/pip install 'hsmd[{extra}]'",
    )


def _one_line(error: HsmdError) -> str:
    text = "; ".join(line for line in error.text.splitlines() if line)
    return f"{text} ({error.detail})" if error.detail else text
