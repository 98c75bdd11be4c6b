"""The statement keys that a check accepts: those of the profile, which are fetched if a new one has been endorsed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.errors import ConfigurationError
from hsmd.protocol.messages import StatementKeyList, StatementKeys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hsmd.transparency.note import Verifier

WAITS = "waits"


def accepted(session: Session) -> Sequence[Verifier]:
    """The keys that are known without asking; none if only options name the daemon. Raises CommandError."""
    pins = session.statement_pins()
    try:
        return [] if pins is None else pins.accepted()
    except ConfigurationError as error:
        raise _unusable(error) from None


def fetched(session: Session) -> Sequence[Verifier]:
    """The keys after asking the daemon: those that follow from what is pinned. Raises CommandError or HsmdError.

    If only options name the daemon, nothing is pinned but its host key, and what it shows is accepted.
    """
    from hsmd.transparency.note import Verifier

    shown = session.ask(StatementKeys(), StatementKeyList)
    pins = session.statement_pins()
    if pins is None:
        lines = [line for key in shown.keys if key.state != WAITS for line in key.verifier_keys]
        return [Verifier.from_vkey(line) for line in lines]
    try:
        return pins.learn(shown)
    except ConfigurationError as error:
        raise _unusable(error) from None


def _unusable(error: ConfigurationError) -> CommandError:
    problem, _, advice = "; ".join(error.faults).partition("; ")
    return CommandError(problem, advice, Exit.USAGE)
