"""The statement keys that an operator profile accepts: pinned in it, or remembered in a file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.profile import Profile
from hsmd.errors import ProtocolError
from hsmd.system.profile_file import remembered_keys

if TYPE_CHECKING:
    from hsmd.client.statement_keys import StatementKeyPins


def pins_of(profile: Profile, file: Path) -> StatementKeyPins:
    """The accepted keys of the profile in `file`. Raises CommandError for malformed keys in it."""
    from hsmd.cli.base.ssh_keys import operator_keys
    from hsmd.client.statement_keys import StatementKeyPins, parse_pins
    from hsmd.transparency.declaration import operator_verifier

    try:
        pinned = parse_pins(profile.statement_keys)
        operators = [operator_verifier(line) for line in profile.operator_keys]
    except ProtocolError as error:
        raise CommandError(f"{file}: {error.text}", "correct the file, or enrol again", Exit.USAGE) from None
    operators += [key for key in operator_keys(profile.identity) if key not in operators]
    return StatementKeyPins(remembered_keys(file), pinned, operators)
